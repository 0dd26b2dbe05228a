"""Prompts of drawn lengths, cut from the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from enginebay.loadtest.workloads.lengths import Lengths
from enginebay.loadtest.workloads.question import Desk, Session, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticWorkload:
    """Every prompt begins in a way of its own."""

    input_tokens: Lengths
    output_tokens: Lengths

    def open(self, desk: Desk, *, seed: int) -> OpenSynthetic:
        return OpenSynthetic(self, desk, seed)


@dataclass(frozen=True, slots=True)
class OpenSynthetic:
    workload: SyntheticWorkload
    desk: Desk
    seed: int

    def __str__(self) -> str:
        return f"{self.workload.input_tokens} tokens in, {self.workload.output_tokens} out"

    def traffic(self) -> Traffic:
        """The same lengths for every load."""
        return Traffic(
            warmup=self._sessions(np.random.default_rng([self.seed, 2])),
            sessions=self._sessions(np.random.default_rng([self.seed, 1])),
        )

    def _sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        while True:
            num_tokens = self.workload.input_tokens.draw(rng)
            yield (self.desk.write(num_tokens, max_tokens=self.workload.output_tokens.draw(rng)),)
