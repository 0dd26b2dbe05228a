"""A backend that keeps every promise of the protocol, with a made-up model, for mutants to break one at a time.

Its next token is a function of the prompt's ids and the position, so that every field of a request has its effect.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import math
import random
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from functools import cache

import jinja2

from enginebay.errors import ContextTooLong, DeadlineExceeded, EngineDied, InvalidRequest, NotStarted
from enginebay.types import (
    BackendInfo,
    Capabilities,
    Chat,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    PromptEcho,
    Text,
    TextPart,
    TokenAlternative,
    TokenIds,
    TokenLogprob,
    Usage,
)

WORDS = ["sea", "ship", "storm", "wave", "wind", "sand", "salt", "gull", "rope", "mast", "sail", "tide", "foam", "star"]
END, FIRST_HALF, SECOND_HALF = 0, 1, 2
PIECES = [b"", b" \xf0\x9f", b"\x99\x82", *(f" {word}".encode() for word in WORDS)]
BEYOND_ASCII = 10_000
"""Prompt tokens from here on: the model answers in the same way."""
MAX_MODEL_LEN = 400
NOW = 100.0


@dataclass
class Generated:
    """A whole answer, before it is cut into chunks."""

    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason = FinishReason.LENGTH
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class FaultlessBackend:
    def __init__(
        self, *, features: frozenset[Feature] = frozenset(Feature), load_takes_s: float = 0.0, pace_s: float = 0.0
    ) -> None:
        """pace_s: from one token to the next."""
        self.info = BackendInfo(
            kind="faultless",
            name="faultless",
            model="made-up",
            capabilities=Capabilities(features=features),
            max_model_len=MAX_MODEL_LEN,
            simulated=False,  # its model is made up, but every field of a request has its effect
        )
        self.state = HealthState.LOADING
        self.load_takes_s, self.pace_s = load_takes_s, pace_s
        self.died: asyncio.Future[str] | None = None
        self.is_closed = False
        self.num_running = 0
        self.num_generated = 0
        self.num_ended: Counter[str] = Counter()
        self.cached: set[tuple[int, ...]] = set()

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        await asyncio.sleep(self.load_takes_s)
        self.died = asyncio.get_running_loop().create_future()
        self.state = HealthState.READY

    def kill(self) -> None:
        assert self.died is not None
        self.died.set_result("killed")
        self.state = HealthState.DEAD

    async def aclose(self) -> None:
        self.is_closed = True
        self.state = HealthState.DEAD
        if self.died is not None and not self.died.done():
            self.died.set_result("closed")

    async def health(self) -> Health:
        return Health(self.state)

    async def stats(self) -> EngineStats:
        return EngineStats(
            requests_running=float(self.num_running),
            requests_waiting=0.0,
            generation_tokens_total=float(self.num_generated),
            requests_total_by_finish_reason={str(reason): float(n) for reason, n in self.num_ended.items()},
        )

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return self.ids_of(prompt)

    async def reset_prefix_cache(self) -> None:
        self.cached.clear()

    # ---------------------------------------------------------------- requests

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if self.died is None or self.is_closed:
            raise NotStarted("not started, or closed")
        if request.adapter is not None:
            raise InvalidRequest("there is no such adapter", field="adapter")
        ids = self.ids_of(request.prompt)
        if len(ids) > MAX_MODEL_LEN:
            raise ContextTooLong(num_tokens=len(ids), limit=MAX_MODEL_LEN)
        return self.stream(request, ids[-(request.truncate_prompt_tokens or len(ids)) :])

    async def stream(self, request: GenerationRequest, ids: tuple[int, ...]) -> AsyncGenerator[GenerationChunk, None]:
        assert self.died is not None
        if request.deadline_at is not None and request.deadline_at < NOW:
            raise DeadlineExceeded("the deadline had passed", field="deadline_at")
        self.take_slot()
        is_ended = False
        try:
            for chunk in self.chunks(request, ids):
                await asyncio.sleep(0)
                await asyncio.sleep(self.pace_s)
                if self.died.done():
                    await self.end_from_outside(self.died.result())
                if chunk.finish_reason is not None:
                    self.num_ended[self.counted_reason(chunk.finish_reason)] += 1
                    is_ended = True
                    self.free_slot(is_ended=True)
                yield chunk
        finally:
            if not is_ended:
                self.free_slot(is_ended=False)

    async def end_from_outside(self, how: str) -> None:
        raise EngineDied(how)

    def take_slot(self) -> None:
        self.num_running += 1

    def free_slot(self, *, is_ended: bool) -> None:
        self.num_running -= 1

    def counted_reason(self, reason: FinishReason) -> str:
        return reason

    def chunks(self, request: GenerationRequest, ids: tuple[int, ...]) -> Iterator[GenerationChunk]:
        answer = self.answer(request, ids)
        usage = Usage(len(ids), len(answer.token_ids), num_cached_tokens=len(ids) if ids in self.cached else 0)
        self.cached.add(ids)
        echo = PromptEcho(ids, logprobs=_prompt_logprobs(ids) if request.prompt_logprobs is not None else None)
        last = GenerationChunk(
            token_ids=(),
            num_tokens=0,
            received_at=NOW,
            usage=usage,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
            prompt=echo if not answer.token_ids else None,
        )
        for number, (token_id, text) in enumerate(zip(answer.token_ids, answer.texts, strict=True)):
            self.num_generated += 1
            yield GenerationChunk(
                text=text,
                token_ids=(token_id,),
                num_tokens=1,
                logprobs=(answer.logprobs[number],) if request.logprobs is not None else None,
                received_at=NOW,
                prompt=echo if number == 0 else None,
            )
        yield last

    # ---------------------------------------------------------------- the model

    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        text = prompt.text if isinstance(prompt, Text) else _chat_text(prompt)
        return tuple(_id_of(word) for word in text.split())

    def answer(self, request: GenerationRequest, ids: tuple[int, ...]) -> Generated:
        sampling, answer = request.sampling, Generated()
        if request.response_format is not None:
            return Generated([3], [json.dumps({"answer": "yes"})], [_logprob(3)], FinishReason.STOP)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        ends_at = 5 if isinstance(request.prompt, Chat) and len(ids) < 14 else None
        num_before = len(request.resume_token_ids)
        for position in range(num_before, sampling.max_tokens):
            logits = self.logits(request, ids, position, ends_at=ends_at)
            logits = self.penalised(logits, request, answer.token_ids)
            token_id = self.choose(request, logits, position)
            answer.token_ids.append(token_id)
            is_shown = token_id == END and sampling.ignore_eos and not sampling.skip_special_tokens
            answer.texts.append(decoder.decode(PIECES[token_id]) + ("<end>" if is_shown else ""))
            answer.logprobs.append(_entry(token_id, logits, request.logprobs or 0))
            if self.stops(request, answer, position + 1):
                return answer
        if answer.texts:
            answer.texts[-1] += decoder.decode(b"", final=True)
        return answer

    def logits(
        self, request: GenerationRequest, ids: tuple[int, ...], position: int, *, ends_at: int | None
    ) -> dict[int, float]:
        logits = dict(_logits_after(ids, position))
        if any(each >= BEYOND_ASCII for each in ids):
            logits[(FIRST_HALF, SECOND_HALF)[position % 2]] = 9.0
        if ends_at is not None and position >= ends_at and position >= request.sampling.min_tokens:
            logits |= {END: 20.0} if position == ends_at or not request.sampling.ignore_eos else {}
        return {each: logit + request.sampling.logit_bias.get(each, 0.0) for each, logit in logits.items()}

    def penalised(self, logits: dict[int, float], request: GenerationRequest, token_ids: list[int]) -> dict[int, float]:
        sampling, counts = request.sampling, Counter(token_ids)
        return {
            each: logit
            if not counts[each]
            else logit / sampling.repetition_penalty
            - sampling.presence_penalty
            - sampling.frequency_penalty * counts[each]
            for each, logit in logits.items()
        }

    def choose(self, request: GenerationRequest, logits: dict[int, float], position: int) -> int:
        sampling = request.sampling
        ranked = sorted(logits, key=lambda each: -logits[each])
        if sampling.temperature == 0:
            return ranked[0]
        weights = {each: math.exp((logits[each] - logits[ranked[0]]) / sampling.temperature) for each in ranked}
        kept = ranked[: sampling.top_k or None]
        kept = [each for each in kept if weights[each] >= sampling.min_p]
        kept = kept[:1] if sampling.top_p < 0.01 else kept
        noise = random.Random(f"{sampling.seed}:{position}") if sampling.seed is not None else random.Random()
        return noise.choices(kept, [weights[each] for each in kept])[0]

    def stops(self, request: GenerationRequest, answer: Generated, num_tokens: int) -> bool:
        sampling, last = request.sampling, answer.token_ids[-1]
        if num_tokens < sampling.min_tokens:
            return False
        if last == END and not sampling.ignore_eos:
            answer.finish_reason = FinishReason.STOP
        elif last in sampling.stop_token_ids:
            answer.finish_reason, answer.stop_reason = FinishReason.STOP, last
        elif found := next((stop for stop in sampling.stop if stop in answer.text), None):
            answer.finish_reason, answer.stop_reason = FinishReason.STOP, found
            end = answer.text.index(found) + (len(found) if sampling.include_stop_str_in_output else 0)
            answer.texts = _cut(answer.texts, end)
        return answer.finish_reason is FinishReason.STOP


@cache
def _logits_after(ids: tuple[int, ...], position: int) -> tuple[tuple[int, float], ...]:
    noise = random.Random(zlib.crc32(repr((ids, position)).encode()))
    return tuple((token_id, noise.uniform(0, 6)) for token_id in range(3, len(PIECES)))


def _cut(texts: list[str], end: int) -> list[str]:
    """The same pieces, of `end` characters together."""
    cut: list[str] = []
    for text in texts:
        cut.append(text[: max(0, end - sum(map(len, cut)))])
    return cut


def _id_of(word: str) -> int:
    if word in WORDS:
        return PIECES.index(f" {word}".encode())
    return zlib.crc32(word.encode()) % 9_000 + 100 + (0 if word.isascii() else BEYOND_ASCII)


def _chat_text(chat: Chat) -> str:
    if chat.template is not None:
        return jinja2.Template(chat.template).render(messages=chat.messages, **chat.template_kwargs)
    contents = [message.content or "" for message in chat.messages]
    parts = [(content,) if isinstance(content, str) else content for content in contents]
    return " ".join(
        each if isinstance(each, str) else each.text
        for part in parts
        for each in part
        if isinstance(each, str | TextPart)
    )


def _entry(token_id: int, logits: dict[int, float], num_alternatives: int) -> TokenLogprob:
    total = math.log(sum(math.exp(logit) for logit in logits.values()))
    ranked = sorted(logits, key=lambda each: -logits[each])[:num_alternatives]
    alternatives = tuple(TokenAlternative(each, str(each), logits[each] - total) for each in ranked)
    return TokenLogprob(token_id, str(token_id), logits[token_id] - total, alternatives)


def _logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, str(token_id), 0.0)


def _prompt_logprobs(ids: tuple[int, ...]) -> tuple[TokenLogprob | None, ...]:
    return (None, *(_logprob(each) for each in ids[1:]))
