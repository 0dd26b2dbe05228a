"""One request to a simulated engine, and what its wire is told about it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Protocol

from enginebay.backends.stop_strings import StopMatch, StopStrings
from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.draw import NO_FILTERS, Filters, choose_biased, choose_rank


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSampling:
    """What a wire read from the request. Fields that its engine does not have stay at these neutral values."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy: the seed does not matter."""
    filters: Filters = NO_FILTERS
    """Which tokens may be drawn."""
    seed: int | None = None
    """None: the engine draws one."""
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    """Whether the matched stop string stays in the text."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0


class StepToken:
    """One token of one step. The last of a request has `finish_reason`."""

    __slots__ = ("_best", "_rank", "_state", "finish_reason", "stop_reason", "text", "token_id")

    def __init__(
        self,
        token_id: int,
        text: str,
        *,
        state: int,
        best: int,
        rank: int | None,
        finish_reason: str | None,
        stop_reason: str | int | None,
    ) -> None:
        """best: the likeliest token in this state. rank: of this one, None where a bias brought it in."""
        self._state, self._best, self._rank = state, best, rank
        self.token_id = token_id
        self.text = text
        """What can be shown now: empty inside a character and while a stop string could still match."""
        self.finish_reason = finish_reason
        """`stop` or `length`; `stop_reason` is None for an end of sequence."""
        self.stop_reason = stop_reason

    @property
    def logprob(self) -> float:
        return tokens.logprob(self._state, self._rank)

    def alternatives(self, num: int) -> list[tuple[int, float]]:
        """(id, log-probability) of the `num` likeliest, whether this one is among them or not."""
        return tokens.alternatives(self._state, self._best, num)


class Listener(Protocol):
    """A wire's side of one request. Both are called inside the engine's step and must not wait."""

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None: ...

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        """The engine died with this request in flight."""
        ...


class SimulatedRequest:
    """Public attributes are for wires and metrics to read; only the engine writes them."""

    __slots__ = (
        "_decoder", "_noise", "_state", "_stops", "arrived_at", "cache_salt", "finish_reason", "first_token_at",
        "last_token_at", "listener", "num_blocks", "num_cached_tokens", "num_output_tokens", "num_preemptions",
        "num_to_prefill", "output_token_ids", "prompt_token_ids", "sampling", "scheduled_at",
    )  # fmt: skip

    def __init__(
        self,
        prompt_token_ids: tuple[int, ...],
        sampling: SimulatedSampling,
        *,
        listener: Listener,
        cache_salt: str = "",
    ) -> None:
        """prompt_token_ids: not empty. cache_salt: prompts of different salts share no cached prefix."""
        self.prompt_token_ids, self.sampling, self.listener = prompt_token_ids, sampling, listener
        self.cache_salt = cache_salt
        self.output_token_ids: list[int] = []
        self.num_output_tokens = 0
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.num_blocks = 0
        self.num_to_prefill = 0
        self.arrived_at = 0.0
        self.scheduled_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.finish_reason: str | None = None
        """`stop`, `length`, `abort` or `error` once it has ended."""
        self._state = self._noise = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(sampling.stop, include_in_output=sampling.include_stop) if sampling.stop else None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + self.num_output_tokens

    def begin(self, drawn_seed: int) -> None:
        """Fix the noise: the request's seed or the drawn one."""
        self._noise = drawn_seed if self.sampling.seed is None else self.sampling.seed
        self._state = tokens.state_after(self.prompt_token_ids)

    def next_token(self, *, min_answer_tokens: int, end_every_tokens: int) -> StepToken:
        """Compute one token and append it."""
        best = self._best(min_answer_tokens, end_every_tokens)
        token_id, rank = self._choose(best)
        state = self._state
        self._state = tokens.next_state(state, token_id)
        self.output_token_ids.append(token_id)
        self.num_output_tokens += 1
        text, finish_reason, stop_reason = self._text_and_end(token_id)
        self.finish_reason = finish_reason
        return StepToken(
            token_id, text, state=state, best=best, rank=rank, finish_reason=finish_reason, stop_reason=stop_reason
        )  # fmt: skip

    @property
    def _last_token(self) -> int:
        return self.output_token_ids[-1] if self.output_token_ids else self.prompt_token_ids[-1]

    def _choose(self, best: int) -> tuple[int, int | None]:
        """(token, rank); what completes a character has no rival."""
        sampling, is_fixed = self.sampling, tokens.is_inside_character(self._last_token)
        if sampling.filters.logit_bias:
            return choose_biased(
                self._state, best, self._noise,
                temperature=sampling.temperature, filters=sampling.filters, is_fixed=is_fixed,
            )  # fmt: skip
        if is_fixed:
            return best, 0
        rank = choose_rank(self._state, self._noise, temperature=sampling.temperature, filters=sampling.filters)
        return tokens.candidate(self._state, best, rank), rank

    def _best(self, min_answer_tokens: int, end_every_tokens: int) -> int:
        last = self._last_token
        if not self._may_end(min_answer_tokens) or tokens.is_inside_character(last):
            return tokens.next_token(self._state, last)
        is_end = (self._state >> 17) % end_every_tokens == 0
        return tokens.END_ID if is_end else tokens.next_token(self._state, last)

    def _may_end(self, min_answer_tokens: int) -> bool:
        sampling = self.sampling
        return not sampling.ignore_eos and self.num_output_tokens >= max(min_answer_tokens, sampling.min_tokens)

    def _text_and_end(self, token_id: int) -> tuple[str, str | None, str | int | None]:
        sampling = self.sampling
        may_stop = self.num_output_tokens >= sampling.min_tokens
        text = self._decoder.decode(tokens.piece(token_id))
        if self._stops is not None:
            match = self._stops.push(text, may_stop=may_stop)
            if isinstance(match, StopMatch):
                return match.text, "stop", match.stop
            text = match
        if token_id == tokens.END_ID:
            return text + self._rest(), "stop", None
        if may_stop and token_id in sampling.stop_token_ids:
            return text + self._rest(), "stop", token_id
        if self.num_output_tokens >= sampling.max_tokens:
            return text + self._rest(), "length", None
        return text, None, None

    def _rest(self) -> str:
        """What was kept back for a stop string. The bytes of an unfinished character are never shown."""
        return self._stops.flush() if self._stops is not None else ""
