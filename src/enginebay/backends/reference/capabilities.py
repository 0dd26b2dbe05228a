"""What the reference backend can do: known before it starts."""

from __future__ import annotations

from enginebay.backends.reference.options import ReferenceOptions
from enginebay.types import Capabilities, Feature

_NOT_YET = frozenset(
    {
        Feature.IMAGES,
        Feature.TOOLS,
        Feature.ADAPTER,
        Feature.RESPONSE_FORMAT,
    }
)


def capabilities(version: str | None, options: ReferenceOptions) -> Capabilities:
    features = frozenset(Feature) - _NOT_YET
    if not options.trust_request_chat_template:
        features -= {Feature.CHAT_TEMPLATE}
    return Capabilities(features=features, max_logprobs=options.max_logprobs, max_stop_strings=options.max_stop_strings)
