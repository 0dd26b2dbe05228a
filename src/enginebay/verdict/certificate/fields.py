"""Sampling, field by field: what the plan asks of a request, and what its body said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from enginebay.types import SamplingParams

Carried = Literal["sent", "off", "missing", "other"]
"""`off`: not in the body, and the plan leaves it off; `missing`: not in the body though the plan asks for it."""

OFF: Mapping[str, object] = {
    "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "logit_bias": {}, "stop": [], "include_stop_str_in_output": False, "stop_token_ids": [],
    "ignore_eos": False, "min_tokens": 0, "seed": None, "skip_special_tokens": True,
}  # fmt: skip
"""Values that change nothing: a body without the field asks for the same. The others have none."""
CHOICE_AMONG_LIKELY = ("top_p", "top_k", "min_p", "seed")
"""Say nothing where the most likely token is taken."""


def planned_sampling(sampling: SamplingParams) -> dict[str, object]:
    """As plain values; greedy in whatever words."""
    fields: dict[str, object] = msgspec.to_builtins(sampling, str_keys=True)
    if fields["top_k"] == 1:
        fields["temperature"] = 0.0
    return fields


def carried(planned: Mapping[str, object], sent: Mapping[str, object]) -> Iterator[tuple[str, Carried]]:
    """For each field of the plan how the body carried it. planned: of `planned_sampling`."""
    is_greedy = planned["temperature"] == 0
    for name, value in planned.items():
        if name in sent and _equal(name, value, sent[name]):
            yield name, "sent"
        elif is_greedy and name in CHOICE_AMONG_LIKELY:
            yield name, "off"
        elif name not in sent:
            yield name, "off" if name in OFF and _equal(name, value, OFF[name]) else "missing"
        else:
            # Without a seed each request draws its own, here or there.
            yield name, "off" if name == "seed" and value is None else "other"


def _equal(name: str, planned: object, sent: object) -> bool:
    if name == "stop" and isinstance(sent, str):
        sent = [sent]
    if isinstance(planned, (tuple, list)) and isinstance(sent, (tuple, list)):
        return list(planned) == list(sent)  # pyright: ignore[reportUnknownArgumentType]
    if name == "seed" and isinstance(planned, int) and isinstance(sent, int):
        return any(planned % modulus == sent % modulus for modulus in _SEED_MODULI)
    return planned == sent


_SEED_MODULI = (2**64, 2**32, 2**32 - 1)
"""Engines take unsigned seeds; a negative or long one is brought into their range. One engine keeps the last of 32 bits
for a seed of its own."""
