"""Backends that break one promise each: of what they tell, of their slots, of many at once, of their life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace

from faultless_backend import FaultlessBackend
from mutants_of_answers import Editing

from enginebay.errors import UnsupportedFeature
from enginebay.request_checks import required_features
from enginebay.types import (
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    TokenLogprob,
)

# ---------------------------------------------------------------- what it tells


class ForgetsALogprob(Editing):
    def edit(self, chunks, request):
        return chunks if request.logprobs is None else [replace(chunks[0], logprobs=None), *chunks[1:]]


class IsMoreThanSure(Editing):
    def edit(self, chunks, request):
        return [
            replace(chunk, logprobs=tuple(_surer(entry) for entry in chunk.logprobs)) if chunk.logprobs else chunk
            for chunk in chunks
        ]


class ListsTheWorstFirst(Editing):
    def edit(self, chunks, request):
        return [
            replace(chunk, logprobs=tuple(_reversed(entry) for entry in chunk.logprobs)) if chunk.logprobs else chunk
            for chunk in chunks
        ]


class ForgetsThePromptLogprobs(Editing):
    def edit(self, chunks, request):
        return [replace(chunk, prompt=None) for chunk in chunks]


class HidesTokenIds(Editing):
    """Of greedy answers of twelve tokens without another wish."""

    def edit(self, chunks, request):
        is_probed = request.sampling.max_tokens == 12 and not request.resume_token_ids
        return [replace(chunks[0], token_ids=()), *chunks[1:]] if is_probed else chunks


class BreaksTheSchema(Editing):
    def edit(self, chunks, request):
        return chunks if request.response_format is None else [replace(chunks[0], text='{"answer": 1}'), *chunks[1:]]


class SaysItIsDegraded(FaultlessBackend):
    async def health(self) -> Health:
        return Health(HealthState.DEGRADED, "out of sorts") if self.state is HealthState.READY else Health(self.state)


class IsUnwellWhenBusy(FaultlessBackend):
    async def health(self) -> Health:
        return Health(HealthState.DEAD if self.num_running > 8 else self.state)


class HasNoTimeForHealth(FaultlessBackend):
    async def health(self) -> Health:
        if self.num_running > 8:
            await asyncio.get_running_loop().create_future()
        return Health(self.state)


class CountsTokensTwice(FaultlessBackend):
    async def stats(self) -> EngineStats:
        stats = await super().stats()
        return replace(stats, generation_tokens_total=2 * self.num_generated)


class CountsNoTokens(FaultlessBackend):
    async def stats(self) -> EngineStats:
        return replace(await super().stats(), generation_tokens_total=0.0)


class CountsNoRequests(FaultlessBackend):
    async def stats(self) -> EngineStats:
        return replace(await super().stats(), requests_total_by_finish_reason={"stop": 0.0})


class CountsUnderAnotherReason(FaultlessBackend):
    def counted_reason(self, reason: FinishReason) -> str:
        return FinishReason.ABORT


class KeepsItsCache(FaultlessBackend):
    async def reset_prefix_cache(self) -> None:
        pass


# ---------------------------------------------------------------- slots


class ForgetsTheSlot(FaultlessBackend):
    """Of streams that were left early."""

    def free_slot(self, *, is_ended: bool) -> None:
        if is_ended:
            super().free_slot(is_ended=True)


class SaysNothingRuns(FaultlessBackend):
    """With a pace, so that there is time to look."""

    def __init__(self) -> None:
        super().__init__(pace_s=0.002)

    async def stats(self) -> EngineStats:
        return replace(await super().stats(), requests_running=0.0)


class ForgetsOneOfMany(FaultlessBackend):
    def free_slot(self, *, is_ended: bool) -> None:
        if is_ended or self.num_running != 13:
            super().free_slot(is_ended=is_ended)


class WaitsInItsCleanUp(FaultlessBackend):
    """An await in `finally`, which a cancelled scope cuts off before the slot is free."""

    async def stream(self, request: GenerationRequest, ids: tuple[int, ...]) -> AsyncGenerator[GenerationChunk, None]:
        self.num_running += 1
        try:
            async with aclosing(super().stream(request, ids)) as inner:
                async for chunk in inner:
                    yield chunk
        finally:
            await asyncio.sleep(0)
            self.num_running -= 1


class ForgetsTheSlotBeforeTheFirstChunk(FaultlessBackend):
    async def stream(self, request: GenerationRequest, ids: tuple[int, ...]) -> AsyncGenerator[GenerationChunk, None]:
        has_begun = False
        self.num_running += 1
        try:
            async for chunk in super().stream(request, ids):
                has_begun = True
                yield chunk
        finally:
            if has_begun:
                self.num_running -= 1


class ForgetsTheSlotOfAClosedStream(FaultlessBackend):
    """Knows cancellation, but not a consumer that closes."""

    async def stream(self, request: GenerationRequest, ids: tuple[int, ...]) -> AsyncGenerator[GenerationChunk, None]:
        inner = super().stream(request, ids)
        self.num_running += 1
        try:
            async for chunk in inner:
                if chunk.finish_reason is not None:
                    self.num_running -= 1
                yield chunk
        except asyncio.CancelledError:
            self.num_running -= 1
            raise
        finally:
            await inner.aclose()


class HoldsSlotsOfTheUnbegun(FaultlessBackend):
    """A slot for every call, given back when its stream is begun."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        self.num_running += 1
        return super().generate(request)

    def take_slot(self) -> None:
        pass


# ---------------------------------------------------------------- many at once


class MixesUpNeighbours(FaultlessBackend):
    """Gives the usage of the request that came before, where there are many."""

    def chunks(self, request: GenerationRequest, ids: tuple[int, ...]) -> Iterator[GenerationChunk]:
        for chunk in super().chunks(request, ids):
            if chunk.usage is not None and self.num_running > 16:
                yield replace(chunk, usage=replace(chunk.usage, num_prompt_tokens=7))
            else:
                yield chunk


class FallsSilentInACrowd(FaultlessBackend):
    def chunks(self, request: GenerationRequest, ids: tuple[int, ...]) -> Iterator[GenerationChunk]:
        is_crowded = self.num_running > 24
        for chunk in super().chunks(request, ids):
            yield replace(chunk, text="") if is_crowded else chunk


class IgnoresDeadlines(FaultlessBackend):
    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return super().generate(replace(request, deadline_at=None))


class TakesAnyAdapter(FaultlessBackend):
    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return super().generate(replace(request, adapter=None))


class Refuses(FaultlessBackend):
    """One feature, by its name."""

    def __init__(self, feature: Feature, *, features: frozenset[Feature] = frozenset(Feature)) -> None:
        super().__init__(features=features)
        self.refused = feature

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if self.refused in required_features(request):
            raise UnsupportedFeature(field=self.refused.value, backend="refuses")
        return super().generate(request)


class TellsNothing(FaultlessBackend):
    async def stats(self) -> EngineStats:
        return EngineStats()


class RunsOutOfSlots(TellsNothing):
    """Every stream that is left early keeps its slot, and nobody is told."""

    def __init__(self, *, num_slots: int = 16) -> None:
        super().__init__()
        self.slots = asyncio.Semaphore(num_slots)

    async def stream(self, request: GenerationRequest, ids: tuple[int, ...]) -> AsyncGenerator[GenerationChunk, None]:
        await self.slots.acquire()
        async for chunk in super().stream(request, ids):
            if chunk.finish_reason is not None:
                self.slots.release()
            yield chunk


# ---------------------------------------------------------------- life


class AnswersUnstarted(FaultlessBackend):
    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return self.stream(request, self.ids_of(request.prompt)) if self.died is None else super().generate(request)


class AnswersWhenClosed(FaultlessBackend):
    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        self.is_closed = False
        return super().generate(request)


class ClosesOnce(FaultlessBackend):
    async def aclose(self) -> None:
        if self.is_closed:
            raise RuntimeError("closed already")
        await super().aclose()


class HangsWhenClosed(FaultlessBackend):
    async def end_from_outside(self, how: str) -> None:
        if self.is_closed:
            await asyncio.get_running_loop().create_future()
        await super().end_from_outside(how)


class HangsWhenKilled(FaultlessBackend):
    async def end_from_outside(self, how: str) -> None:
        if not self.is_closed:
            await asyncio.get_running_loop().create_future()
        await super().end_from_outside(how)


class DiesUntyped(FaultlessBackend):
    async def end_from_outside(self, how: str) -> None:
        if not self.is_closed:
            raise ConnectionResetError("gone")
        await super().end_from_outside(how)


class LooksWellWhenDead(FaultlessBackend):
    async def health(self) -> Health:
        return Health(self.state if self.is_closed or self.died is None else HealthState.READY)


class IsReadyTooEarly(FaultlessBackend):
    """While it loads, but not before that."""

    is_starting = False

    async def start(self) -> None:
        self.is_starting = True
        await super().start()

    async def health(self) -> Health:
        is_early = self.is_starting and self.state is HealthState.LOADING
        return Health(HealthState.READY if is_early else self.state)


class RefusesToBeCancelled(FaultlessBackend):
    """Turns the cancellation of its start into an error of its own."""

    async def start(self) -> None:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            raise ConnectionError("start was disturbed") from None
        await super().start()


class LeavesItsPortTaken(FaultlessBackend):
    """A start that was cancelled keeps the next one from starting."""

    is_taken = False

    async def start(self) -> None:
        if type(self).is_taken:
            type(self).is_taken = False
            raise OSError("address already in use")
        try:
            await asyncio.sleep(0.02)
            await super().start()
        except asyncio.CancelledError:
            type(self).is_taken = not self.load_takes_s
            raise


def _surer(entry: TokenLogprob) -> TokenLogprob:
    return replace(entry, logprob=0.5)


def _reversed(entry: TokenLogprob) -> TokenLogprob:
    return replace(entry, alternatives=entry.alternatives[::-1])
