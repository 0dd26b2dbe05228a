"""What OpenVINO GenAI's continuous batching does, as it was seen to do in 2026.4.1."""

from __future__ import annotations

from enginebay.types import Capabilities, Feature
from enginebay_openvino.options import OpenVinoOptions

FEATURES = frozenset(
    {
        Feature.TEXT_PROMPT, Feature.TOKEN_PROMPT, Feature.CHAT, Feature.TEMPLATE_KWARGS, Feature.CHAT_TEMPLATE,
        Feature.TOP_K, Feature.MIN_P, Feature.REPETITION_PENALTY, Feature.PRESENCE_PENALTY, Feature.FREQUENCY_PENALTY,
        Feature.STOP, Feature.STOP_IN_OUTPUT, Feature.STOP_TOKEN_IDS, Feature.IGNORE_EOS, Feature.MIN_TOKENS,
        Feature.SEED, Feature.KEEP_SPECIAL_TOKENS, Feature.LOGPROBS, Feature.TRUNCATE_PROMPT, Feature.DEADLINE,
        Feature.OUTPUT_TOKEN_IDS, Feature.COUNT_TOKENS,
    }
)  # fmt: skip
"""Not among them: logit_bias, prompt_logprobs, priority, cache_salt, max_tokens=0 (the engine has no such thing);
adapters, images, tools, response_format (it has them, this adapter does not offer them)."""


def capabilities(version: str | None, options: OpenVinoOptions) -> Capabilities:
    """The log-probability of the chosen token is told, and of no other."""
    return Capabilities(features=FEATURES, max_logprobs=0)
