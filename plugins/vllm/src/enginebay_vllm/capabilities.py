"""What vLLM can do, by the options that it is started with."""

from __future__ import annotations

from dataclasses import replace

from enginebay.types import Capabilities, Feature
from enginebay.wire.openai_dialects import VLLM
from enginebay_vllm.options import VllmOptions

_OF_THE_SERVER = frozenset({Feature.ADAPTER, Feature.IMAGES, Feature.TOOLS})
"""Adapters by name, images by address and tool calls are the work of vLLM's server, not of its engine."""


def capabilities(version: str | None, options: VllmOptions) -> Capabilities:
    """Of a server. What only some servers can do is asked of them at the start (`probing.py`)."""
    features = set(VLLM.capabilities.features)
    if options.scheduling_policy != "priority":
        features.discard(Feature.PRIORITY)
    if options.tool_call_parser is None:
        features.discard(Feature.TOOLS)
    if not options.trust_request_chat_template:
        features.discard(Feature.CHAT_TEMPLATE)
    if not options.return_token_ids:
        features.discard(Feature.OUTPUT_TOKEN_IDS)
    if options.dev_mode:
        features.add(Feature.RESET_PREFIX_CACHE)
    return replace(VLLM.capabilities, features=frozenset(features), max_logprobs=options.max_logprobs)


def in_process_capabilities(version: str | None, options: VllmOptions) -> Capabilities:
    """The engine's Python API limits no number of stop strings, and the prefix cache can always be reset."""
    features = capabilities(version, options).features - _OF_THE_SERVER
    return Capabilities(
        features=features | {Feature.CHAT_TEMPLATE, Feature.OUTPUT_TOKEN_IDS, Feature.RESET_PREFIX_CACHE},
        max_logprobs=options.max_logprobs,
        max_temperature=VLLM.capabilities.max_temperature,
    )
