"""What servers that speak the OpenAI API understand beyond it: which fields may be sent, and what they can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginebay.types import Capabilities, Feature

DialectName = Literal["enginebay", "vllm", "openai"]
"""Those that are built in; a plugin makes its own."""

VLLM_FIELDS = frozenset(
    {
        "add_generation_prompt", "add_special_tokens", "cache_salt", "chat_template", "chat_template_kwargs",
        "continue_final_message", "ignore_eos", "include_stop_str_in_output", "min_p", "min_tokens", "priority",
        "prompt_logprobs", "repetition_penalty", "return_token_ids", "skip_special_tokens", "stop_token_ids",
        "structured_outputs", "top_k", "truncate_prompt_tokens",
    }
)  # fmt: skip
"""vLLM's additions to the OpenAI API; our own server takes the same."""

_OPENAI_FEATURES = frozenset(
    {
        Feature.TEXT_PROMPT, Feature.TOKEN_PROMPT, Feature.CHAT, Feature.IMAGES, Feature.TOOLS,
        Feature.PRESENCE_PENALTY, Feature.FREQUENCY_PENALTY, Feature.LOGIT_BIAS, Feature.STOP, Feature.SEED,
        Feature.LOGPROBS, Feature.RESPONSE_FORMAT, Feature.DEADLINE,
    }
)  # fmt: skip
_VLLM_FEATURES = _OPENAI_FEATURES | {
    Feature.TEMPLATE_KWARGS, Feature.CHAT_TEMPLATE, Feature.CONTINUE_FINAL_MESSAGE, Feature.TOP_K, Feature.MIN_P,
    Feature.REPETITION_PENALTY, Feature.STOP_IN_OUTPUT, Feature.STOP_TOKEN_IDS, Feature.IGNORE_EOS,
    Feature.MIN_TOKENS, Feature.KEEP_SPECIAL_TOKENS, Feature.PROMPT_LOGPROBS, Feature.TRUNCATE_PROMPT,
    Feature.PRIORITY, Feature.CACHE_SALT, Feature.OUTPUT_TOKEN_IDS, Feature.COUNT_TOKENS,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    name: str
    fields: frozenset[str]
    """Request fields beyond the OpenAI API."""
    capabilities: Capabilities
    """The most that a server of this dialect can do; one that can do less refuses by name."""


OPENAI = Dialect(
    name="openai",
    fields=frozenset(),
    capabilities=Capabilities(
        features=_OPENAI_FEATURES, max_logprobs=20, max_stop_strings=4, max_temperature=2.0
    ),
)  # fmt: skip
VLLM = Dialect(
    name="vllm",
    fields=VLLM_FIELDS,
    capabilities=Capabilities(
        features=_VLLM_FEATURES | {Feature.ADAPTER}, max_logprobs=20, max_stop_strings=4, max_temperature=2.0
    ),
)  # fmt: skip
ENGINEBAY = Dialect(
    name="enginebay",
    fields=VLLM_FIELDS,
    capabilities=Capabilities(features=_VLLM_FEATURES, max_stop_strings=16),
)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OPENAI, VLLM, ENGINEBAY)}
