"""What llama-server can do, as far as its routes show it."""

from __future__ import annotations

from enginebay.types import Capabilities, Feature
from enginebay_llama_cpp.options import LlamaCppOptions

# Not here, because the server has no field for it, or none that does it alone:
# MIN_TOKENS, STOP_TOKEN_IDS, STOP_IN_OUTPUT (the stop word is cut off), KEEP_SPECIAL_TOKENS (a flag of the server),
# PROMPT_LOGPROBS, TRUNCATE_PROMPT, PRIORITY, CACHE_SALT, CHAT_TEMPLATE (a flag), RESUME,
# PREFILL_ONLY (n_predict 0 yields a token all the same).
FEATURES = frozenset(
    {
        Feature.TEXT_PROMPT, Feature.TOKEN_PROMPT, Feature.CHAT, Feature.TOOLS, Feature.TEMPLATE_KWARGS,
        Feature.CONTINUE_FINAL_MESSAGE, Feature.TOP_K, Feature.MIN_P, Feature.REPETITION_PENALTY,
        Feature.PRESENCE_PENALTY, Feature.FREQUENCY_PENALTY, Feature.LOGIT_BIAS, Feature.STOP, Feature.IGNORE_EOS,
        Feature.SEED, Feature.LOGPROBS, Feature.DEADLINE, Feature.RESPONSE_FORMAT, Feature.OUTPUT_TOKEN_IDS,
        Feature.COUNT_TOKENS,
    }
)  # fmt: skip


def capabilities(version: str | None, options: LlamaCppOptions) -> Capabilities:
    return Capabilities(features=FEATURES)
