"""How far two engines may part before rounding no longer explains it.

What is known was measured (docs/equality.md): one model, two engines, 64 greedy tokens after each of fifty prompts.
In float32 both said the same. In bfloat16 half of the answers parted, each where the engines disagreed on the two
tokens by 0.125 or 0.25, one or two steps of a logit between 16 and 32 in that type; 1.2 partings for each hundred
tokens, and 1.4 to 1.6 when one engine was set against itself in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

STEPS = 4
"""Twice the most that was seen."""
STEP_BY_DTYPE = {"bfloat16": 2**-3, "float16": 2**-6, "float32": 2**-19}
"""Between neighbouring numbers of the type, for a logit between 16 and 32."""
# Sums taken in another order differ by more than the last step of float32: by some millionths, as measured.
LEAST_DIFFERENCE = 0.001
MAX_PARTINGS_PER_TOKEN = {"bfloat16": 0.03, "float16": 0.03, "float32": 0.002}
"""Twice the most that was seen in bfloat16; float16 is finer and gets no bound of its own, having none measured."""
MAX_UNEXPLAINED_RATIO = 0.05
"""Of the partings whose gaps are known: a rare one beyond the bound is still rounding, in a model of many layers."""


class OutputBound(msgspec.Struct, frozen=True, kw_only=True):
    dtype: str
    """The coarser one of the two engines; `bfloat16` where neither tells."""
    max_difference: float
    """Of `Parting.difference`, in units of log-probability."""
    max_partings_per_token: float
    """Where log-probabilities are not told. Exceeded when the lower end of the interval lies above it."""


def bound_for(*effective_settings: Mapping[str, object]) -> OutputBound:
    """Of what the engines say that they compute in."""
    told = [str(settings.get("dtype")).removeprefix("torch.") for settings in effective_settings]
    known = [dtype if dtype in STEP_BY_DTYPE else "bfloat16" for dtype in told]
    dtype = max(known, key=lambda name: STEP_BY_DTYPE[name], default="bfloat16")
    return OutputBound(
        dtype=dtype,
        max_difference=max(STEPS * STEP_BY_DTYPE[dtype], LEAST_DIFFERENCE),
        max_partings_per_token=MAX_PARTINGS_PER_TOKEN[dtype],
    )
