"""All probes, in the order in which they run: what the others rest on comes first."""

from __future__ import annotations

from enginebay.probes.cancelling import CANCEL_PROBES
from enginebay.probes.concurrency import CONCURRENCY_PROBES
from enginebay.probes.features import FEATURE_PROBES
from enginebay.probes.life_cycle import LIFE_CYCLE_PROBES
from enginebay.probes.probe import Probe
from enginebay.probes.prompts import PROMPT_PROBES
from enginebay.probes.sampling import SAMPLING_PROBES
from enginebay.probes.stopping import STOP_PROBES
from enginebay.probes.streams import STREAM_PROBES
from enginebay.probes.telling import TELLING_PROBES

PROBES: tuple[Probe, ...] = (
    *STREAM_PROBES,
    *STOP_PROBES,
    *SAMPLING_PROBES,
    *PROMPT_PROBES,
    *TELLING_PROBES,
    *CANCEL_PROBES,
    *CONCURRENCY_PROBES,
    *FEATURE_PROBES,
)

__all__ = ["LIFE_CYCLE_PROBES", "PROBES"]
