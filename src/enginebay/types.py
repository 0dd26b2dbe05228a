"""The values that cross the backend line: requests, chunks, capabilities, statistics.

Everything here is frozen, slotted and free of third-party imports. Counts are `num_*`, instants `*_at`
(monotonic seconds of the injected clock), durations `*_s`, sizes `*_bytes`, fractions `*_ratio` (0 to 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

# ---------------------------------------------------------------- prompts


@dataclass(frozen=True, slots=True)
class Text:
    """A raw prompt. `add_special_tokens` adds BOS for tokenizers that have one."""

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt that is already tokenised; used exactly as given."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    url: str
    """`https:` or `data:` URL."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str | tuple[TextPart | ImagePart, ...] | None
    name: str | None = None
    tool_calls: tuple[Mapping[str, object], ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; the backend applies the model's chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, object], ...] = ()
    tool_choice: str | Mapping[str, object] | None = None
    template_kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    template: str | None = None
    """A Jinja template that replaces the model's own."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False


Prompt = Text | TokenIds | Chat

# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when they end. Every field is always sent to the engine explicitly."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    """No end-of-sequence and no stop before this many output tokens."""
    seed: int | None = None
    """Sampling noise is a function of (seed, position); None draws a seed once for the request."""
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat:
    """A constraint on the form of the output, as the OpenAI API names them."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar", "choice"]
    schema: object = None


Delivery = Literal["stream", "final"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One sequence to generate. n > 1 is fanned out above this line."""

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    response_format: ResponseFormat | None = None
    logprobs: int | None = None
    """Number of alternatives reported beside each chosen token; 0 is the chosen one alone, None is off."""
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    """Keep only this many tokens, from the end of the prompt."""
    priority: int = 0
    """Smaller is served earlier."""
    deadline_at: float | None = None
    session_key: str | None = None
    cache_salt: str | None = None
    """Prompts with different salts never share cached blocks."""
    adapter: str | None = None
    """Name of a LoRA adapter."""
    delivery: Delivery = "stream"
    """`final` asks for one chunk that carries everything."""
    resume_token_ids: tuple[int, ...] = ()
    """Tokens already delivered elsewhere: they count toward max_tokens, penalties and noise position."""


# ---------------------------------------------------------------- chunks


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REPETITION = "repetition"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    token_id: int | None
    """None where the engine gives the text alone."""
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token and the best alternatives at its position, best first."""

    token_id: int | None
    token: str
    logprob: float
    alternatives: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptEcho:
    """What the backend made of the prompt; carried by the first chunk where it is known."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One for each prompt token; the first has none."""
    tokens: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Cumulative counts. Output tokens count up to the one that completes a stop."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int | None = None
    """Prompt tokens served from the prefix cache; None where the engine does not tell."""
    num_discarded_tokens: int = 0
    """Computed after the stop and thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationChunk:
    """A piece of a stream. It may carry several tokens or none: count tokens, never chunks."""

    text: str = ""
    token_ids: tuple[int, ...] | None = None
    num_tokens: int | None = None
    """None where the engine does not tell."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning_text: str | None = None
    tool_call_deltas: tuple[ToolCallDelta, ...] = ()
    received_at: float
    """When the bytes that completed this chunk arrived (injected monotonic clock)."""
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    """Set on the last chunk and on no other; that chunk also has `usage`."""
    stop_reason: str | int | None = None
    """The stop string or stop token id that matched; None for end of sequence and for length."""
    prompt: PromptEcho | None = None


# ---------------------------------------------------------------- capabilities


class Feature(StrEnum):
    """What a request may ask of a backend; the value is the field a client would have used."""

    TEXT_PROMPT = "prompt"
    TOKEN_PROMPT = "prompt_token_ids"
    CHAT = "messages"
    IMAGES = "image_url"
    TOOLS = "tools"
    TEMPLATE_KWARGS = "chat_template_kwargs"
    CHAT_TEMPLATE = "chat_template"
    CONTINUE_FINAL_MESSAGE = "continue_final_message"
    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    LOGIT_BIAS = "logit_bias"
    STOP = "stop"
    STOP_IN_OUTPUT = "include_stop_str_in_output"
    STOP_TOKEN_IDS = "stop_token_ids"
    IGNORE_EOS = "ignore_eos"
    MIN_TOKENS = "min_tokens"
    SEED = "seed"
    KEEP_SPECIAL_TOKENS = "skip_special_tokens"
    LOGPROBS = "logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    TRUNCATE_PROMPT = "truncate_prompt_tokens"
    PRIORITY = "priority"
    DEADLINE = "deadline_at"
    CACHE_SALT = "cache_salt"
    ADAPTER = "adapter"
    RESPONSE_FORMAT = "response_format"
    RESUME = "resume_token_ids"
    PREFILL_ONLY = "max_tokens=0"
    # not asked by a request, but of the backend itself
    OUTPUT_TOKEN_IDS = "token_ids"
    COUNT_TOKENS = "count_tokens"
    RESET_PREFIX_CACHE = "reset_prefix_cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    features: frozenset[Feature]
    max_logprobs: int | None = None
    """None is no limit of its own."""
    max_stop_strings: int | None = None
    max_temperature: float | None = None

    def __contains__(self, feature: Feature) -> bool:
        return feature in self.features


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    kind: str
    name: str
    """The entry's name in the config; the kind where there is no config."""
    model: str
    capabilities: Capabilities
    """Declared before start; replaced by what was found out afterwards."""
    engine_version: str | None = None
    max_model_len: int | None = None
    effective_settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the engine says it runs with; a key that is absent is unknown."""
    simulated: bool = False


class HealthState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Health:
    state: HealthState
    reason: str = ""
    is_final: bool = False
    """Dead for good: only a new backend, or a restart of the server around it, helps."""


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A cumulative histogram: `counts[i]` observations were at most `bounds[i]`; the last bound is infinite."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float

    @property
    def count(self) -> float:
        return self.counts[-1] if self.counts else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The 19 quantities of every engine; None where the engine does not tell."""

    requests_running: float | None = None
    requests_waiting: float | None = None
    requests_total_by_finish_reason: Mapping[str, float] | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    ttft_seconds: HistogramSnapshot | None = None
    inter_token_seconds: HistogramSnapshot | None = None
    tpot_seconds: HistogramSnapshot | None = None
    e2e_seconds: HistogramSnapshot | None = None
    queue_seconds: HistogramSnapshot | None = None
    kv_cache_usage_ratio: float | None = None
    prefix_cache_hit_ratio: float | None = None
    prefix_cache_queries_total: float | None = None
    prefix_cache_hits_total: float | None = None
    preemptions_total: float | None = None
    spec_decode_accepted_tokens_total: float | None = None
    spec_decode_drafted_tokens_total: float | None = None
    batch_size: float | None = None
    gpu_memory_bytes: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict[str, float])
    """Counters that only this engine has, by their own Prometheus name."""
