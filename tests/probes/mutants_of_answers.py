"""Backends that break one promise about answers each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from faultless_backend import FIRST_HALF, MAX_MODEL_LEN, NOW, FaultlessBackend, Generated

from enginebay.probes.asking import LONG_TEXT
from enginebay.types import (
    Chat,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Prompt,
    Text,
)


class Editing(FaultlessBackend):
    """Edits requests before they are answered, and chunks before they are sent."""

    def edit_request(self, request: GenerationRequest) -> GenerationRequest:
        return request

    def edit(self, chunks: list[GenerationChunk], request: GenerationRequest) -> list[GenerationChunk]:
        return chunks

    def chunks(self, request: GenerationRequest, ids: tuple[int, ...]) -> Iterator[GenerationChunk]:
        yield from self.edit(list(super().chunks(self.edit_request(request), ids)), request)


class DropsSampling(Editing):
    """Takes sampling fields and leaves them at their neutral values."""

    dropped: Mapping[str, object] = MappingProxyType({})

    def edit_request(self, request: GenerationRequest) -> GenerationRequest:
        return replace(request, sampling=replace(request.sampling, **self.dropped))


def dropping(**dropped: object) -> type[DropsSampling]:
    return type(f"Drops_{'_'.join(dropped)}", (DropsSampling,), {"dropped": dropped})


# ---------------------------------------------------------------- streams


class SendsTwoLastChunks(Editing):
    def edit(self, chunks, request):
        return [*chunks, chunks[-1]]


class TalksAfterItsEnd(Editing):
    def edit(self, chunks, request):
        return [*chunks, GenerationChunk(text=" more", received_at=NOW)]


class MiscountsUsage(Editing):
    """Where the chunks tell their own number it is wrong by one."""

    def edit(self, chunks, request):
        usage = replace(chunks[-1].usage, num_output_tokens=chunks[-1].usage.num_output_tokens + 1)
        return [*chunks[:-1], replace(chunks[-1], usage=usage)] if request.sampling.max_tokens == 16 else chunks


class StampsBackwards(Editing):
    def edit(self, chunks, request):
        return [replace(chunk, received_at=NOW - number) for number, chunk in enumerate(chunks)]


class SaysOtherInFinal(Editing):
    def edit(self, chunks, request):
        if request.delivery == "stream" or request.prompt != Text(LONG_TEXT):
            return chunks
        return [replace(chunks[0], text=" other"), *chunks[1:]]


class SendsHalfCharacters(Editing):
    def edit(self, chunks, request):
        if request.delivery == "final":
            return chunks
        return [replace(chunk, text="\ufffd" if chunk.token_ids == (FIRST_HALF,) else chunk.text) for chunk in chunks]


# ---------------------------------------------------------------- ends


class GivesOneTokenTooMany(Editing):
    def edit_request(self, request):
        if request.sampling.max_tokens != 7 or request.prompt != Text(LONG_TEXT):
            return request
        return replace(request, sampling=replace(request.sampling, max_tokens=8))


class CallsTheLimitAStop(Editing):
    def edit(self, chunks, request):
        told = request.sampling.max_tokens == 2
        return [*chunks[:-1], replace(chunks[-1], finish_reason=FinishReason.STOP)] if told else chunks


class KeepsTheStop(DropsSampling):
    def edit_request(self, request):
        return replace(request, sampling=replace(request.sampling, include_stop_str_in_output=True))


class NamesAnotherStop(Editing):
    def edit(self, chunks, request):
        if len(request.sampling.stop) < 2:
            return chunks
        return [*chunks[:-1], replace(chunks[-1], stop_reason=request.sampling.stop[0])]


class NamesAnotherStopToken(Editing):
    def edit(self, chunks, request):
        if not request.sampling.stop_token_ids or chunks[-1].stop_reason is None:
            return chunks
        return [*chunks[:-1], replace(chunks[-1], stop_reason=99)]


# ---------------------------------------------------------------- sampling


class IsNeverTwiceTheSame(FaultlessBackend):
    """Greedy or not: the second request for 24 tokens has another answer."""

    num_asked = 0

    def answer(self, request: GenerationRequest, ids: tuple[int, ...]) -> Generated:
        if request.sampling.max_tokens == 24:
            self.num_asked += 1
            ids = (*ids, self.num_asked)
        return super().answer(request, ids)


class SpeaksAnotherTokenInTheSameWords(Editing):
    """The text repeats itself, the ids don't."""

    num_asked = 0

    def edit(self, chunks, request):
        if request.sampling.max_tokens == 24:
            self.num_asked += 1
            return [replace(chunks[0], token_ids=(100 + self.num_asked,)), *chunks[1:]]
        return chunks


class DrawsFromItsOwnNoise(FaultlessBackend):
    """A seed gives something else every time."""

    num_drawn = 0

    def choose(self, request: GenerationRequest, logits: dict[int, float], position: int) -> int:
        if request.sampling.seed is not None:
            self.num_drawn += 1
            request = replace(request, sampling=replace(request.sampling, seed=self.num_drawn))
        return super().choose(request, logits, position)


class HasOneSeed(DropsSampling):
    def edit_request(self, request):
        seed = None if request.sampling.seed is None else 7
        return replace(request, sampling=replace(request.sampling, seed=seed))


class RewardsInsteadOfPenalising(Editing):
    """With a repetition penalty of 1.8 and 0.6 it does 0.6 and 1.8, and so on; no penalty stays none."""

    field = "presence_penalty"

    def edit_request(self, request):
        value = getattr(request.sampling, self.field)
        opposite = {1.8: 0.6, 0.6: 1.8}.get(value, value) if self.field == "repetition_penalty" else -value
        return replace(request, sampling=replace(request.sampling, **{self.field: opposite}))


def rewarding(field: str) -> type[RewardsInsteadOfPenalising]:
    return type(f"Rewards_{field}", (RewardsInsteadOfPenalising,), {"field": field})


# ---------------------------------------------------------------- what is told beside the text


class TellsNeighbouringIds(Editing):
    """Where the ids alone are asked for, and nothing goes on from them."""

    def edit(self, chunks, request):
        if request.sampling.max_tokens != 16 or request.prompt != Text(LONG_TEXT):
            return chunks
        return [replace(chunk, token_ids=tuple(each + 50 for each in chunk.token_ids or ())) for chunk in chunks]


class SquaresLogprobs(Editing):
    """All of them, and it lists no alternatives that would contradict them."""

    def __init__(self, **keywords) -> None:
        super().__init__(**keywords)
        self.info = replace(self.info, capabilities=replace(self.info.capabilities, max_logprobs=0))

    def told(self, logprob: float) -> float:
        return 2 * logprob

    def edit(self, chunks, request):
        return [
            replace(chunk, logprobs=tuple(replace(each, logprob=self.told(each.logprob)) for each in chunk.logprobs))
            if chunk.logprobs
            else chunk
            for chunk in chunks
        ]


class TellsOneLogprob(SquaresLogprobs):
    def told(self, logprob: float) -> float:
        return -1.0


class TellsAnotherLogprobEachTime(SquaresLogprobs):
    """Of an answer of one token."""

    num_asked = 0

    def told(self, logprob: float) -> float:
        return logprob

    def edit(self, chunks, request):
        if request.sampling.max_tokens == 1 and request.prompt == Text(LONG_TEXT) and chunks[0].logprobs:
            self.num_asked += 1
            entry = replace(chunks[0].logprobs[0], logprob=-9.0 - self.num_asked)
            return [replace(chunks[0], logprobs=(entry,)), *chunks[1:]]
        return chunks


class NamesNoStopToken(Editing):
    def edit(self, chunks, request):
        return [*chunks[:-1], replace(chunks[-1], stop_reason=None)] if request.sampling.stop_token_ids else chunks


# ---------------------------------------------------------------- prompts


class DropsTheTemplate(FaultlessBackend):
    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        return super().ids_of(replace(prompt, template=None) if isinstance(prompt, Chat) else prompt)


class DropsTemplateArguments(FaultlessBackend):
    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        return super().ids_of(replace(prompt, template_kwargs={}) if isinstance(prompt, Chat) else prompt)


class CountsOneTokenTooMany(FaultlessBackend):
    """Of the prompt that is counted alone, not of those of a batch."""

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        ids = self.ids_of(prompt)
        return (*ids, 7) if prompt == Text(LONG_TEXT) else ids


class AddsATokenToIds(FaultlessBackend):
    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        ids = super().ids_of(prompt)
        return (7, *ids) if getattr(prompt, "token_ids", None) else ids


class IsSilentInConversations(Editing):
    """In those that are no question of a probe of ends."""

    def edit(self, chunks, request):
        if not isinstance(request.prompt, Chat) or request.sampling.max_tokens != 16:
            return chunks
        return [replace(chunk, text="") for chunk in chunks]


class SeesPartsDifferently(FaultlessBackend):
    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        ids = super().ids_of(prompt)
        has_parts = isinstance(prompt, Chat) and isinstance(prompt.messages[0].content, tuple)
        return (*ids, 7) if has_parts else ids


class CutsLongPrompts(FaultlessBackend):
    """Answers what does not fit."""

    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        return super().ids_of(prompt)[:MAX_MODEL_LEN]


class ForgetsToTruncate(Editing):
    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return super().generate(replace(request, truncate_prompt_tokens=None))


class SpeaksThoughToldNothing(Editing):
    def edit(self, chunks, request):
        if request.sampling.max_tokens:
            return chunks
        return [GenerationChunk(text=" sea", token_ids=(3,), num_tokens=1, received_at=NOW), *chunks]


class BeginsAgain(Editing):
    def edit_request(self, request):
        return replace(request, resume_token_ids=())
