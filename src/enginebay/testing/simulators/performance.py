"""How fast a simulated engine is, and how much it holds. A simple model on purpose: see docs/simulators.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from enginebay.errors import ConfigError

Pace = Literal["modelled", "paced", "instant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorProfile:
    """One step computes one token for each running sequence and up to `max_num_batched_tokens` prompt tokens.

    It takes `decode_step_s + decode_step_per_sequence_s * num_sequences + num_prompt_tokens / prefill_tokens_per_s`.
    """

    pace: Pace = "modelled"
    """`paced`: every step ends on the next tick, all streams together. `instant`: steps take no time at all."""
    tick_s: float = 0.02
    """Of `paced`."""
    load_time_s: float = 0.0
    prefill_tokens_per_s: float = 8000.0
    decode_step_s: float = 0.010
    decode_step_per_sequence_s: float = 0.0002
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_model_len: int = 4096
    num_blocks: int = 8192
    block_size: int = 16
    """Tokens in one KV block."""
    prefix_caching: bool = True
    max_num_queued: int | None = None
    """Unfinished requests beyond which the engine refuses; None is no limit."""
    min_answer_tokens: int = 96
    """No end of sequence before it."""
    end_every_tokens: int = 64
    """After that, the end of sequence comes once in so many tokens."""

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def check(self) -> None:
        """Raises ConfigError for what no engine has, and for a cache that the longest sequence does not fit into."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", path=name, expected="at least 1")
        for name in ("tick_s", "prefill_tokens_per_s"):
            self._check_finite(name, is_good=getattr(self, name) > 0, expected="above 0")
        for name in ("load_time_s", "decode_step_s", "decode_step_per_sequence_s", "min_answer_tokens"):
            self._check_finite(name, is_good=getattr(self, name) >= 0, expected="at least 0")
        if self.max_num_queued is not None and self.max_num_queued < 0:
            raise ConfigError(f"max_num_queued is {self.max_num_queued}", path="max_num_queued", expected="at least 0")
        if self.max_model_len > self.num_kv_tokens:
            raise ConfigError(
                f"the KV cache holds {self.num_kv_tokens} tokens, one sequence may have {self.max_model_len}",
                path="max_model_len",
                expected=f"at most {self.num_kv_tokens}",
            )

    def _check_finite(self, name: str, *, is_good: bool, expected: str) -> None:
        value = getattr(self, name)
        if not is_good or not math.isfinite(value):
            raise ConfigError(f"{name} is {value}", path=name, expected=f"a number {expected}")


_COUNTS = (
    "max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_blocks", "block_size", "end_every_tokens",
)  # fmt: skip
INSTANT = SimulatorProfile(pace="instant", max_num_seqs=1024)
PACED = SimulatorProfile(pace="paced", max_num_seqs=1024)
PROFILES = {
    "instant": INSTANT,
    "paced": PACED,
    "cpu": SimulatorProfile(
        load_time_s=3.0, prefill_tokens_per_s=600.0, decode_step_s=0.030, decode_step_per_sequence_s=0.003
    ),
    "gpu": SimulatorProfile(
        load_time_s=3.0, prefill_tokens_per_s=20_000.0, decode_step_s=0.008, max_num_seqs=256,
        max_num_batched_tokens=8192, max_model_len=8192, num_blocks=32_768,
    ),
}  # fmt: skip
"""Made up, of a plausible size; none is the measurement of any machine."""
