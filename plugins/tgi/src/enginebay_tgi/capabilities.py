"""What a request may ask of TGI. What is missing here TGI would drop without a word, so it is refused before."""

from __future__ import annotations

from enginebay.types import Capabilities, Feature
from enginebay_tgi.options import TgiOptions

DEFAULT_MAX_STOP_STRINGS = 4
"""Of the launcher's --max-stop-sequences; a running server tells its own."""
MAX_TOP_TOKENS = 5
"""Of the launcher's --max-top-n-tokens, which no route tells."""
FEATURES = frozenset(
    {
        Feature.TEXT_PROMPT, Feature.CHAT, Feature.TOP_K, Feature.REPETITION_PENALTY, Feature.FREQUENCY_PENALTY,
        Feature.STOP, Feature.STOP_IN_OUTPUT, Feature.SEED, Feature.LOGPROBS, Feature.TRUNCATE_PROMPT,
        Feature.RESPONSE_FORMAT, Feature.DEADLINE, Feature.OUTPUT_TOKEN_IDS, Feature.COUNT_TOKENS,
    }
)  # fmt: skip


def capabilities(version: str | None, options: TgiOptions) -> Capabilities:
    features = FEATURES | {Feature.PROMPT_LOGPROBS} if options.enable_prefill_logprobs else FEATURES
    return Capabilities(features=features, max_logprobs=MAX_TOP_TOKENS, max_stop_strings=DEFAULT_MAX_STOP_STRINGS)
