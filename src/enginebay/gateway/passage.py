"""One call on its way through the gateway, to its one outcome."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType

from enginebay.clock import Clock
from enginebay.errors import BackendError
from enginebay.gateway.call import Call, Outcome, OutcomeKind
from enginebay.gateway.endings import ending_of
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.models.served_model import ServedModel, can_count_tokens
from enginebay.types import GenerationChunk, TokenIds, Usage
from enginebay.wire.openai_usage import UsageTally


class Passage:
    """`with passage:` around everything that is done for the call gives it exactly one outcome, however that ends."""

    __slots__ = ("_clock", "_entered", "_has_ended", "_is_ending", "_model", "_on_chunk", "_prompts", "_tally", "call")

    def __init__(
        self,
        call: Call,
        model: ServedModel,
        *,
        choices_per_prompt: int,
        hooks: Hooks,
        clock: Clock,
        is_ending: Callable[[], bool],
        counts_prompts: bool = False,
    ) -> None:
        """is_ending: whether a cancellation that is not the client's is the server's end. counts_prompts: before any
        hook, where the model can."""
        self.call = call
        self._model, self._clock, self._is_ending = model, clock, is_ending
        self._entered, self._on_chunk = hooks.entering(), hooks.on_chunk
        self._tally = UsageTally(num_choices=len(call.requests), choices_per_prompt=choices_per_prompt)
        self._has_ended = False
        self._prompts = [request.prompt for request in call.requests[::choices_per_prompt]] if counts_prompts else []

    async def admit(self) -> Sequence[AsyncGenerator[GenerationChunk, None]]:
        """A stream for each choice. Raises what a hook or a backend refuses the call with; nothing was begun then."""
        if self._prompts and self.call.num_prompt_tokens is None:
            self.call.num_prompt_tokens = await self._count_prompts()
        await self._entered.before_routing(self.call)
        return [self._model.stream(self.call, request) for request in self.call.requests]

    async def _count_prompts(self) -> int | None:
        """None where the model cannot tell, or not now: then another may still be there to answer."""
        if not all(isinstance(prompt, TokenIds) for prompt in self._prompts) and not can_count_tokens(self._model.info):
            return None
        num_tokens = 0
        try:
            for prompt in self._prompts:
                is_counted = isinstance(prompt, TokenIds)
                num_tokens += len(prompt.token_ids if is_counted else await self._model.count_tokens(prompt))
        except BackendError:
            return None
        return num_tokens

    def received(self, index: int, chunk: GenerationChunk) -> None:
        """Every chunk of choice `index`, before anything of it is sent."""
        call, tally = self.call, self._tally
        num_before = tally.of_choice(index).num_output_tokens
        tally.add(index, chunk)
        num_new = tally.of_choice(index).num_output_tokens - num_before
        if num_new:
            call.num_received_tokens += num_new
            if call.first_token_at is None:
                call.first_token_at = self._clock.now()
        for on_chunk in self._on_chunk:
            on_chunk(call, chunk)

    def usage_of_choice(self, index: int) -> Usage:
        return self._tally.of_choice(index)

    def usage(self) -> Usage:
        """Of all choices, so far."""
        return self._tally.total()

    def finish(self) -> None:
        """Every choice has given its last chunk. To be called before the last byte of the answer is written."""
        usage = self._tally.total()
        self._end(
            Outcome(
                kind="finished",
                error_code=None,
                num_prompt_tokens=usage.num_prompt_tokens,
                num_cached_tokens=usage.num_cached_tokens,
                num_output_tokens=usage.num_output_tokens,
                num_unbilled_tokens=usage.num_discarded_tokens,
                usages=self._tally.of_choices(),
                ended_at=self._clock.now(),
            )
        )

    def fail(self, error: BaseException) -> None:
        """To be called before the error is told to the client."""
        has_tokens = self.call.num_received_tokens > 0
        self._stop(*ending_of(error, has_tokens=has_tokens, is_ending=self._is_ending))

    def _stop(self, kind: OutcomeKind, error_code: str | None) -> None:
        usage = self._tally.total()
        self._end(
            Outcome(
                kind=kind,
                error_code=error_code,
                num_prompt_tokens=usage.num_prompt_tokens or self._num_begun_prompt_tokens(),
                num_cached_tokens=usage.num_cached_tokens,
                num_output_tokens=self.call.num_received_tokens,
                num_unbilled_tokens=None,
                usages=self._tally.of_choices(),
                ended_at=self._clock.now(),
            )
        )

    def _num_begun_prompt_tokens(self) -> int:
        """Of an engine that had told nothing yet; of a call that no engine was asked to answer, none."""
        return (self.call.num_prompt_tokens or 0) if self.call.attempts else 0

    def _end(self, outcome: Outcome) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if outcome.num_prompt_tokens:
            self.call.num_prompt_tokens = outcome.num_prompt_tokens
        self._entered.at_end(self.call, outcome)

    def __enter__(self) -> Passage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        assert self._has_ended, "an answer was complete, and nobody said so"
