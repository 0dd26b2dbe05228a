"""What SGLang's server can do."""

from __future__ import annotations

from enginebay.types import Capabilities, Feature
from enginebay_sglang.options import SglangOptions

# Not here: PROMPT_LOGPROBS, TRUNCATE_PROMPT, PRIORITY (a scheduling policy of the server), CACHE_SALT (one of three
# routes has it), ADAPTER, CHAT_TEMPLATE (a flag), RESUME, PREFILL_ONLY. SEED is added where it acts.
FEATURES = frozenset(
    {
        Feature.TEXT_PROMPT, Feature.TOKEN_PROMPT, Feature.CHAT, Feature.IMAGES, Feature.TOOLS,
        Feature.TEMPLATE_KWARGS, Feature.CONTINUE_FINAL_MESSAGE, Feature.TOP_K, Feature.MIN_P,
        Feature.REPETITION_PENALTY, Feature.PRESENCE_PENALTY, Feature.FREQUENCY_PENALTY, Feature.LOGIT_BIAS,
        Feature.STOP, Feature.STOP_IN_OUTPUT, Feature.STOP_TOKEN_IDS, Feature.IGNORE_EOS, Feature.MIN_TOKENS,
        Feature.KEEP_SPECIAL_TOKENS, Feature.LOGPROBS, Feature.DEADLINE, Feature.RESPONSE_FORMAT,
        Feature.OUTPUT_TOKEN_IDS, Feature.COUNT_TOKENS, Feature.RESET_PREFIX_CACHE,
    }
)  # fmt: skip
MAX_STOP_STRINGS = 32


def capabilities(version: str | None, options: SglangOptions) -> Capabilities:
    return with_seed(options.deterministic)


def with_seed(seeds_act: bool) -> Capabilities:
    """A seed is taken and ignored by a server without --enable-deterministic-inference: there it is refused here."""
    features = FEATURES | {Feature.SEED} if seeds_act else FEATURES
    return Capabilities(features=features, max_stop_strings=MAX_STOP_STRINGS)
