"""Live checks of a running backend, without pytest: `run_probes(backend)`.

The conformance suite of `enginebay.testing`, `enginebay backends --check` and the plugin of pytest all run these.
"""

from enginebay.probes.life_cycle import run_life_cycle_probe
from enginebay.probes.probe import LifeCycleProbe, Outcome, Probe, ProbeResult, Subject
from enginebay.probes.running import run_probe, run_probes
from enginebay.probes.suite import LIFE_CYCLE_PROBES, PROBES

__all__ = [
    "LIFE_CYCLE_PROBES",
    "PROBES",
    "LifeCycleProbe",
    "Outcome",
    "Probe",
    "ProbeResult",
    "Subject",
    "run_life_cycle_probe",
    "run_probe",
    "run_probes",
]
