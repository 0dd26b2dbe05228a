"""The batching policies, one file each, and the one table that knows their names."""

from __future__ import annotations

from enginebay.engine.policies.base import Policy
from enginebay.engine.policies.batch_rules import RULES, BatchBounds, BatchSize
from enginebay.engine.policies.continuous import ContinuousPolicy
from enginebay.engine.policies.dynamic import DynamicPolicy
from enginebay.engine.policies.naive import NaivePolicy
from enginebay.engine.policies.static import StaticPolicy
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ConfigError

POLICY_NAMES = ("naive", "static", "continuous", "dynamic")


def build_policy(config: EngineConfig, *, max_model_len: int) -> Policy:
    """Raises ConfigError for an unknown name, and for a token budget that could leave a request stuck."""
    _check_token_budget(config, max_model_len)
    budget, chunked_prefill = config.max_num_batched_tokens, config.chunked_prefill
    if config.policy == "naive":
        return NaivePolicy(max_num_batched_tokens=budget, chunked_prefill=chunked_prefill)
    if config.policy == "static":
        return StaticPolicy(
            num_slots=config.max_num_seqs,
            max_num_batched_tokens=budget,
            max_model_len=max_model_len,
            timeout_s=config.static_batch_timeout_s,
            chunked_prefill=chunked_prefill,
        )
    if config.policy == "continuous":
        return ContinuousPolicy(
            num_slots=config.max_num_seqs, max_num_batched_tokens=budget, chunked_prefill=chunked_prefill
        )
    if config.policy == "dynamic":
        return _dynamic(config, max_model_len=max_model_len)
    raise ConfigError(f"unknown policy {config.policy!r}", path="policy", expected=f"one of {', '.join(POLICY_NAMES)}")


def _dynamic(config: EngineConfig, *, max_model_len: int) -> DynamicPolicy:
    if config.batch_rule not in RULES:
        raise ConfigError(
            f"unknown rule {config.batch_rule!r}", path="batch_rule", expected=f"one of {', '.join(RULES)}"
        )
    most = BatchSize(config.max_num_seqs, config.max_num_batched_tokens)
    fewest_tokens = most.num_slots if config.chunked_prefill else max(most.num_slots, max_model_len)
    bounds = BatchBounds(most=most, fewest_tokens=fewest_tokens)
    return DynamicPolicy(RULES[config.batch_rule], bounds, chunked_prefill=config.chunked_prefill)


def _check_token_budget(config: EngineConfig, max_model_len: int) -> None:
    budget = config.max_num_batched_tokens
    if config.policy != "naive" and budget < config.max_num_seqs:
        raise ConfigError(
            f"{budget} tokens in a step cannot give each of {config.max_num_seqs} sequences one",
            path="engine.max_num_batched_tokens",
            expected=f"at least max_num_seqs ({config.max_num_seqs})",
        )
    if not config.chunked_prefill and budget < max_model_len:
        raise ConfigError(
            f"without chunked prefill a prompt is computed in one step, but a step has {budget} tokens "
            f"and the context {max_model_len}",
            path="engine.max_num_batched_tokens",
            expected=f"at least max_model_len ({max_model_len}), a smaller max_model_len, or chunked_prefill: true",
        )
