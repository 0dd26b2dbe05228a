"""A request's sampling fields as OpenVINO GenAI's GenerationConfig: every one is set, none is left to a default."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from enginebay.types import GenerationRequest

MAX_TOP_K = 2**63 - 1
MAX_MIN_P = 1.0 - 2.0**-24
"""The engine refuses 1; this, the next lower float32, leaves the most probable token alone just as well."""
_SEED_RANGE = 2**64


def generation_config(make_config: Any, request: GenerationRequest, *, eos_ids: Collection[int], seed: int) -> Any:
    """make_config: the class itself. Stop strings are not the engine's matter: it would keep back whole tokens and not
    say which string it met."""
    sampling = request.sampling
    config = make_config()
    config.apply_chat_template = False
    config.max_new_tokens = sampling.max_tokens
    config.min_new_tokens = sampling.min_tokens
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
    config.top_p = sampling.top_p
    config.top_k = sampling.top_k or MAX_TOP_K
    config.min_p = min(sampling.min_p, MAX_MIN_P)
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    config.rng_seed = seed % _SEED_RANGE
    config.logprobs = 0 if request.logprobs is None else 1
    _set_end(config, stop_ids=_stop_ids(request, eos_ids))
    return config


def _stop_ids(request: GenerationRequest, eos_ids: Collection[int]) -> set[int]:
    own = set(request.sampling.stop_token_ids)
    return own if request.sampling.ignore_eos else own | set(eos_ids)


def _set_end(config: Any, *, stop_ids: set[int]) -> None:
    """The engine's ignore_eos would ignore stop_token_ids too, and an empty set, or eos_token_id -1, brings back the
    model's own end of sequence: so `eos_token_id` is one of those that end this request, whatever its name."""
    config.ignore_eos = not stop_ids
    if stop_ids:
        config.stop_token_ids = stop_ids
        config.eos_token_id = min(stop_ids)
