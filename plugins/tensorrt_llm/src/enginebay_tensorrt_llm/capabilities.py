"""What TensorRT-LLM can do, by release line and by the API it is reached through."""

from __future__ import annotations

from enginebay.types import Capabilities, Feature
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.releases import line_of

_SAMPLING = frozenset(
    {
        Feature.TEXT_PROMPT, Feature.TOP_K, Feature.REPETITION_PENALTY, Feature.PRESENCE_PENALTY,
        Feature.FREQUENCY_PENALTY, Feature.STOP, Feature.MIN_TOKENS, Feature.SEED, Feature.DEADLINE,
    }
)  # fmt: skip
_OPENAI = _SAMPLING | {
    Feature.TOKEN_PROMPT, Feature.CHAT, Feature.TEMPLATE_KWARGS, Feature.CHAT_TEMPLATE, Feature.MIN_P,
    Feature.LOGIT_BIAS, Feature.STOP_IN_OUTPUT, Feature.STOP_TOKEN_IDS, Feature.IGNORE_EOS,
    Feature.KEEP_SPECIAL_TOKENS, Feature.TRUNCATE_PROMPT,
}  # fmt: skip
_IN_PROCESS = _SAMPLING | {
    Feature.TOKEN_PROMPT, Feature.MIN_P, Feature.STOP_IN_OUTPUT, Feature.STOP_TOKEN_IDS, Feature.IGNORE_EOS,
    Feature.KEEP_SPECIAL_TOKENS, Feature.CACHE_SALT, Feature.OUTPUT_TOKEN_IDS,
}  # fmt: skip


def capabilities(version: str | None, options: TensorrtLlmOptions) -> Capabilities:
    """Of a server. What chats alone can do there is not offered: log-probabilities before 1.4, and salts."""
    if options.api == "triton":
        return Capabilities(features=_SAMPLING)
    features = set(_OPENAI)
    if line_of(version) == "1.4":
        features.add(Feature.LOGPROBS)
    if options.tool_parser is not None and line_of(version) != "1.2":
        features.add(Feature.TOOLS)
    if options.guided_decoding_backend is not None:
        features.add(Feature.RESPONSE_FORMAT)
    if options.token_ids_only:
        features.add(Feature.OUTPUT_TOKEN_IDS)
        features.discard(Feature.CHAT)  # a chat's answer has no field for ids
        features -= {Feature.TEMPLATE_KWARGS, Feature.CHAT_TEMPLATE, Feature.TOOLS}
    return Capabilities(features=frozenset(features))


IN_PROCESS = Capabilities(features=_IN_PROCESS)
"""Of the `LLM` object: tokens in, tokens and text out; no chats, whose template belongs to the server."""
