"""All probes, in the order in which they run: what the others rest on comes first."""

from __future__ import annotations

from enginebay.probes.believing import BELIEVING_PROBES
from enginebay.probes.cancelling import CANCEL_PROBES
from enginebay.probes.concurrency import CONCURRENCY_PROBES
from enginebay.probes.features import FEATURE_PROBES
from enginebay.probes.life_cycle import LIFE_CYCLE_PROBES
from enginebay.probes.penalties import PENALTY_PROBES
from enginebay.probes.probe import Probe
from enginebay.probes.prompts import PROMPT_PROBES
from enginebay.probes.sampling import SAMPLING_PROBES
from enginebay.probes.stopping import STOP_PROBES
from enginebay.probes.streams import STREAM_PROBES
from enginebay.probes.telling import TELLING_PROBES
from enginebay.probes.templates import TEMPLATE_PROBES

PROBES: tuple[Probe, ...] = (
    *STREAM_PROBES,
    *STOP_PROBES,
    *SAMPLING_PROBES,
    *PENALTY_PROBES,
    *PROMPT_PROBES,
    *TEMPLATE_PROBES,
    *TELLING_PROBES,
    *BELIEVING_PROBES,
    *CANCEL_PROBES,
    *CONCURRENCY_PROBES,
    *FEATURE_PROBES,
)

__all__ = ["LIFE_CYCLE_PROBES", "PROBES"]
