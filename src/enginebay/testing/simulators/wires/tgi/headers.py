"""Headers of generations. Times are whole milliseconds, and stand on whole answers only."""

from __future__ import annotations

import msgspec

_TIMES = (
    "x-compute-time", "x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token",
)  # fmt: skip
encode = msgspec.json.Encoder().encode


def stream_headers(num_characters: int) -> dict[str, str]:
    return {
        "cache-control": "no-cache",
        "x-compute-type": "simulated",
        "x-compute-characters": str(num_characters),
        "x-accel-buffering": "no",
    }


def whole_headers(num_characters: int, num_prompt_tokens: int, num_generated_tokens: int) -> dict[str, str]:
    return {
        "x-compute-type": "simulated",
        "x-compute-characters": str(num_characters),
        **dict.fromkeys(_TIMES, "0"),
        "x-prompt-tokens": str(num_prompt_tokens),
        "x-generated-tokens": str(num_generated_tokens),
    }
