"""What the C libraries of the engine's process read before Python runs, for a process that computes all the time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Subject:
    """Variables that are set together, unless one of these names, or of `others`, was set by the user."""

    variables: Mapping[str, str]
    others: tuple[str, ...] = ()

    def is_chosen(self, given: Mapping[str, str]) -> bool:
        return any(name in given or name in os.environ for name in (*self.variables, *self.others))


THREADS = _Subject({"GOMP_SPINCOUNT": "20000"}, others=("OMP_WAIT_POLICY",))
"""How often a thread of GNU OpenMP looks whether there is work before it sleeps. By its own choice it looks for
milliseconds, and at every one of the hundreds of parallel regions of a step: where the server, a load test or another
engine wants the same cores, that was seen to cost most of the speed."""

MEMORY = _Subject(
    {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)},
    others=("MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD"),
)
"""glibc gives the large tensors of a step back to the system and asks for them again in the next one, page by page:
without that a step of prompts was seen to be a tenth faster. 32 MiB is the most that glibc takes for the first."""


def process_environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given` and our own choices. What the user has set stands, there or in our own environment."""
    chosen = (subject.variables for subject in (THREADS, MEMORY) if not subject.is_chosen(given))
    return {name: value for variables in chosen for name, value in variables.items()} | dict(given)
