"""Random requests of every kind, and the loop that takes them through an engine and looks after each of them."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import psutil

from enginebay.engine.engine import Engine
from enginebay.engine.request import EngineOutput, EngineRequest
from enginebay.errors import DeadlineExceeded

NUM_PREFIXES = 6
SAMPLINGS: tuple[dict[str, object], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "num_logprobs": 2},
    {"temperature": 0.0, "repetition_penalty": 1.2, "presence_penalty": 0.4},
    {"temperature": 0.8},
    {"temperature": 1.2, "top_p": 0.8, "num_logprobs": 0},
    {"temperature": 1.0, "top_k": 9},
    {"temperature": 0.9, "min_p": 0.05, "frequency_penalty": 0.3},
    {"temperature": 1.0, "logit_bias": {5: 2.0, 9: -100.0}, "min_tokens": 2},
)


class SteppingClock:
    """Moves by a millisecond whenever it is asked: deadlines pass without waiting, in every run alike."""

    def __init__(self) -> None:
        self.instant = 1.0

    def now(self) -> float:
        self.instant += 0.001
        return self.instant

    async def sleep_until(self, instant: float) -> None:
        self.instant = max(self.instant, instant)


def random_requests(
    num_requests: int, *, vocab_size: int, max_num_prompt_tokens: int, max_tokens: int, seed: int
) -> Iterator[EngineRequest]:
    """Half of the prompts begin with one of a few prefixes; some repeat themselves, so that drafts are accepted."""
    rng = random.Random(seed)
    prefixes = [_tokens(rng, max_num_prompt_tokens // 2, vocab_size) for _ in range(NUM_PREFIXES)]
    for index in range(num_requests):
        prompt = _tokens(rng, rng.randint(1, max_num_prompt_tokens // 2), vocab_size)
        if rng.random() < 0.5:
            prompt = rng.choice(prefixes) + prompt
        elif rng.random() < 0.3:
            prompt = (prompt[:5] * max_num_prompt_tokens)[:max_num_prompt_tokens]
        num_output_tokens = rng.choice((0, 1, rng.randint(1, max_tokens), max_tokens))
        yield EngineRequest(
            request_id=f"soak {index}",
            prompt_token_ids=prompt,
            max_tokens=num_output_tokens,
            resume_token_ids=_resumed(rng, num_output_tokens, vocab_size) if rng.random() < 0.1 else [],
            seed=rng.getrandbits(60),
            ignore_eos=rng.random() < 0.3,
            stop_token_ids=_tokens(rng, 3, vocab_size) if rng.random() < 0.2 else [],
            priority=rng.choice((-1, 0, 0, 0, 5)),
            num_prompt_logprobs=rng.choice((None, None, None, None, 1)),
            cache_salt=rng.choice(("", "", "", "another tenant")),
            **rng.choice(SAMPLINGS),  # type: ignore[arg-type]
        )


def _resumed(rng: random.Random, max_tokens: int, vocab_size: int) -> list[int]:
    """What another engine has delivered already, before it left the rest to this one."""
    return _tokens(rng, rng.randrange(max_tokens), vocab_size) if max_tokens else []


def _tokens(rng: random.Random, num_tokens: int, vocab_size: int) -> list[int]:
    return [rng.randrange(vocab_size) for _ in range(num_tokens)]


@dataclass
class SoakReport:
    num_requests: int = 0
    num_steps: int = 0
    num_output_tokens: int = 0
    num_preemptions: int = 0
    num_ends_by_reason: Counter[str] = field(default_factory=Counter)
    resident_bytes: dict[int, int] = field(default_factory=dict)
    """By the number of requests that had ended."""
    problems: list[str] = field(default_factory=list)
    checked: dict[str, tuple[EngineRequest, list[int]]] = field(default_factory=dict)
    """Requests that ran to their ends, and their tokens: for whoever recomputes them alone."""


class Soak:
    """Keeps a random number of requests in flight, cancels some of them at random, and counts every end."""

    def __init__(
        self, engine: Engine, clock: SteppingClock, *, seed: int, max_num_in_flight: int, check_every: int = 50
    ) -> None:
        self.report = SoakReport()
        self._engine, self._clock = engine, clock
        self._rng = random.Random(seed)
        self._max_num_in_flight, self._check_every = max_num_in_flight, check_every
        self._in_flight: dict[str, tuple[EngineRequest, list[int]]] = {}

    def run(self, requests: Iterator[EngineRequest], *, note_memory_every: int) -> SoakReport:
        waiting: EngineRequest | None = next(requests, None)
        while waiting is not None or self._in_flight:
            target = self._rng.randint(1, self._max_num_in_flight)
            while waiting is not None and len(self._in_flight) < target:
                self._add(waiting)
                waiting = next(requests, None)
            self._step()
            if self._in_flight and self._rng.random() < 0.15:
                self._cancel(self._rng.choice(sorted(self._in_flight)))
            if sum(self.report.num_ends_by_reason.values()) // note_memory_every > len(self.report.resident_bytes):
                self._note_memory()
        self._look_for_leftovers()
        return self.report

    def _add(self, request: EngineRequest) -> None:
        self.report.num_requests += 1
        if self._rng.random() < 0.1:
            deadline_at = self._clock.now() + self._rng.choice((-0.001, 0.02, 0.5, 100.0))
            request = msgspec.structs.replace(request, deadline_at=deadline_at)
        try:
            self._engine.add(request)
        except DeadlineExceeded:
            self.report.num_ends_by_reason["refused"] += 1
        else:
            self._in_flight[request.request_id] = (request, [])

    def _step(self) -> None:
        for output in self._engine.step():
            self._take(output)
        self.report.num_steps += 1
        if self.report.num_steps % 20 == 0:
            self._engine.scheduler.check_integrity()

    def _take(self, output: EngineOutput) -> None:
        if output.request_id not in self._in_flight:
            self.report.problems.append(f"{output.request_id}: an output after its end")
            return
        request, token_ids = self._in_flight[output.request_id]
        token_ids += output.token_ids
        self.report.num_output_tokens += len(output.token_ids)
        if output.finish_reason is None:
            return
        del self._in_flight[output.request_id]
        self.report.num_preemptions += output.num_preemptions
        reason = output.finish_reason if output.error is None else output.error_kind or "error"
        self.report.num_ends_by_reason[reason] += 1
        if reason not in ("stop", "length", "deadline"):
            self.report.problems.append(f"{output.request_id}: {reason}: {output.error}")
        if reason in ("stop", "length") and int(request.request_id.split()[1]) % self._check_every == 0:
            self.report.checked[request.request_id] = (request, token_ids)

    def _cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        del self._in_flight[request_id]
        self.report.num_ends_by_reason["cancelled"] += 1

    def _note_memory(self) -> None:
        num_ended = sum(self.report.num_ends_by_reason.values())
        self.report.resident_bytes[num_ended] = psutil.Process(os.getpid()).memory_info().rss

    def _look_for_leftovers(self) -> None:
        scheduler, problems = self._engine.scheduler, self.report.problems
        scheduler.check_integrity()
        if self._engine.has_work or scheduler.running or scheduler.waiting:
            problems.append("sequences are left although every request has ended")
        if scheduler.pool.num_free != scheduler.pool.num_blocks:
            problems.append(f"{scheduler.pool.num_blocks - scheduler.pool.num_free} blocks were never given back")
        if self.report.num_requests != sum(self.report.num_ends_by_reason.values()):
            problems.append("requests and ends are not as many")


def wrong_tokens(
    checked: Mapping[str, tuple[EngineRequest, list[int]]], alone: Callable[[EngineRequest], list[int]]
) -> list[str]:
    """What differs from the tokens that each request gets alone."""
    problems: list[str] = []
    for request_id, (request, token_ids) in checked.items():
        expected = alone(msgspec.structs.replace(request, deadline_at=None, priority=0, num_prompt_logprobs=None))
        if token_ids != expected:
            problems.append(f"{request_id}: {token_ids}, alone {expected}")
    return problems


def tokens_alone(engine: Engine) -> Callable[[EngineRequest], list[int]]:
    """engine: an idle one, in which one request at a time is run to its end."""

    def alone(request: EngineRequest) -> list[int]:
        engine.add(request)
        token_ids: list[int] = []
        while engine.has_work:
            for output in engine.step():
                assert output.error is None, output.error
                token_ids += output.token_ids
        return token_ids

    return alone
