"""The router's checks of a generation, in its order and its words."""

from __future__ import annotations

from dataclasses import dataclass

from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.flags import Values
from enginebay.testing.simulators.vocabulary import OWN_VOCABULARY, Vocabulary
from enginebay.testing.simulators.wires.tgi.errors import Refusal
from enginebay.testing.simulators.wires.tgi.requests import ChatBody, CompletionBody, Parameters


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the launch flags."""

    max_total_tokens: int
    max_input_tokens: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_best_of: int
    has_grammars: bool
    has_prefill_logprobs: bool

    @classmethod
    def of(cls, values: Values) -> Limits:
        def number(name: str) -> int:
            return int(str(values[name]))

        return cls(
            max_total_tokens=number("max_total_tokens"),
            max_input_tokens=number("max_input_tokens"),
            max_stop_sequences=number("max_stop_sequences"),
            max_top_n_tokens=number("max_top_n_tokens"),
            max_best_of=number("max_best_of"),
            has_grammars=not values["disable_grammar_support"],
            has_prefill_logprobs=bool(values["enable_prefill_logprobs"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidRequest:
    inputs: str
    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    is_sampled: bool
    """TGI draws; else it takes the likeliest token."""
    temperature: float
    filters: Filters
    has_grammar: bool
    seed: int | None
    stop: tuple[str, ...]
    num_top_tokens: int
    has_details: bool
    has_prefill: bool
    is_full_text: bool


def validate(
    inputs: str,
    parameters: Parameters,
    limits: Limits,
    *,
    vocabulary: Vocabulary = OWN_VOCABULARY,
    is_streamed: bool,
    adds_special_tokens: bool,
) -> ValidRequest:
    """Raises Refusal of type `validation`."""
    _check_stream(parameters, is_streamed=is_streamed)
    _check_sampling(parameters)
    _check_limits(parameters, limits)
    if not inputs:
        raise _invalid("`inputs` cannot be empty")
    if parameters.truncate is not None and not 0 < parameters.truncate <= limits.max_input_tokens:
        raise _invalid(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. "
            f"Given: {parameters.truncate}"
        )
    token_ids = vocabulary.encode(inputs, adds_special_tokens=adds_special_tokens)
    if parameters.truncate is not None:
        token_ids = token_ids[-parameters.truncate :]
    max_new_tokens = _length(len(token_ids), parameters.max_new_tokens, limits)
    _check_grammar(parameters.grammar, limits)
    return ValidRequest(
        inputs=inputs,
        prompt_token_ids=token_ids,
        max_new_tokens=max_new_tokens,
        is_sampled=_is_sampled(parameters),
        temperature=1.0 if parameters.temperature is None else parameters.temperature,
        has_grammar=parameters.grammar is not None,
        filters=Filters(top_k=parameters.top_k or 0, top_p=parameters.top_p or 1.0),
        seed=parameters.seed,
        stop=tuple(parameters.stop),
        num_top_tokens=parameters.top_n_tokens or 0,
        has_details=parameters.details or parameters.decoder_input_details,
        has_prefill=parameters.decoder_input_details,
        is_full_text=bool(parameters.return_full_text),
    )


def completion_parameters(body: CompletionBody) -> Parameters:
    """decoder_input_details is set where the answer is whole: it bypasses the prefix cache."""
    return Parameters(
        temperature=None if body.temperature == 0 else body.temperature,
        do_sample=body.temperature != 0,
        top_p=body.top_p,
        repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty,
        max_new_tokens=body.max_tokens,
        stop=body.stop or [],
        seed=body.seed,
        details=True,
        decoder_input_details=not body.stream,
    )


def chat_parameters(body: ChatBody) -> Parameters:
    penalty = body.presence_penalty
    return Parameters(
        temperature=None if body.temperature == 0 else body.temperature,
        do_sample=body.temperature != 0,
        top_p=body.top_p,
        repetition_penalty=None if penalty is None else penalty + 2.0,
        frequency_penalty=body.frequency_penalty,
        max_new_tokens=body.max_tokens if body.max_tokens is not None else body.max_completion_tokens,
        stop=body.stop or [],
        seed=body.seed,
        top_n_tokens=body.top_logprobs,
        grammar=body.response_format,
        details=True,
        decoder_input_details=False,
    )


def _check_stream(parameters: Parameters, *, is_streamed: bool) -> None:
    best_of = parameters.best_of or 1
    if is_streamed and best_of > 1:
        raise _invalid("`best_of` != 1 is not supported when streaming tokens")
    if is_streamed and parameters.decoder_input_details:
        raise _invalid("`decoder_input_details` == true is not supported when streaming tokens")
    if best_of > 1 and not _is_sampled(parameters):
        raise _invalid("you must use sampling when `best_of` is > 1")
    if best_of > 1 and parameters.seed is not None:
        raise _invalid("`seed` must not be set when `best_of` > 1")


def _check_sampling(parameters: Parameters) -> None:
    temperature, penalty = parameters.temperature, parameters.repetition_penalty
    if temperature is not None and temperature <= 0:
        raise _invalid("`temperature` must be strictly positive")
    if penalty is not None and penalty <= 0:
        raise _invalid("`repetition_penalty` must be strictly positive")
    if parameters.frequency_penalty is not None and not -2 <= parameters.frequency_penalty <= 2:
        raise _invalid("`frequency_penalty` must be >= -2.0 and <= 2.0")
    if parameters.top_p is not None and not 0 < parameters.top_p < 1:
        raise _invalid("`top_p` must be > 0.0 and < 1.0")
    if parameters.typical_p is not None and not 0 < parameters.typical_p < 1:
        raise _invalid("`typical_p` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise _invalid("`top_k` must be strictly positive")
    if parameters.max_new_tokens == 0:
        raise _invalid("`max_new_tokens` must be strictly positive")


def _check_limits(parameters: Parameters, limits: Limits) -> None:
    if len(parameters.stop) > limits.max_stop_sequences:
        raise _invalid(
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(parameters.stop)}"
        )
    if (parameters.best_of or 1) > limits.max_best_of:
        raise _invalid(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {parameters.best_of}")
    if (parameters.best_of or 1) > 1:
        raise _invalid("`best_of` > 1 is not simulated")
    if (parameters.top_n_tokens or 0) > limits.max_top_n_tokens:
        raise _invalid(
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {parameters.top_n_tokens}"
        )


def _length(num_inputs: int, max_new_tokens: int | None, limits: Limits) -> int:
    wanted = limits.max_total_tokens - num_inputs if max_new_tokens is None else max_new_tokens
    if num_inputs + wanted > limits.max_total_tokens:
        raise _invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {num_inputs} `inputs` tokens and {wanted} `max_new_tokens`"
        )
    if num_inputs > limits.max_input_tokens:
        raise _invalid(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {num_inputs}")
    return wanted


def _check_grammar(grammar: dict[str, object] | None, limits: Limits) -> None:
    if grammar is None:
        return
    if not limits.has_grammars:
        raise _invalid("grammar is not supported")
    value = grammar.get("value")
    if grammar.get("type") == "json" and not (isinstance(value, dict) and "properties" in value):
        raise _invalid("grammar is not valid: Grammar must have a 'properties' field")


def _is_sampled(parameters: Parameters) -> bool:
    """The shard's rule: a setting of sampling switches it on, whatever do_sample says."""
    return (
        parameters.do_sample
        or parameters.temperature not in (None, 1.0)
        or parameters.top_k is not None
        or parameters.top_p is not None
        or parameters.typical_p is not None
    )


def _invalid(problem: str) -> Refusal:
    return Refusal("validation", problem)
