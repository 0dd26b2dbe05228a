"""Prompts of the plan, asked again with log-probabilities when nothing is measured any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtest_fakes import ENVIRONMENT, ScriptedBackend, SilentWatcher, VirtualClock, small_plan, started

from enginebay.backend import Backend
from enginebay.errors import EngineDied
from enginebay.loadtest.answers import Answer, read_answers
from enginebay.loadtest.asking import MAX_TOKENS, ask
from enginebay.loadtest.kept import read_kept
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.session import Bench
from enginebay.types import (
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenAlternative,
    TokenLogprob,
    Usage,
)


@dataclass
class TellingBackend(ScriptedBackend):
    """Says the tokens 1, 2, 3, ... with their log-probabilities where it is asked for them."""

    asked: list[GenerationRequest] = field(default_factory=list)
    failing_index: int | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if request.logprobs is None:
            async for chunk in super().generate(request):
                yield chunk
            return
        self.asked.append(request)
        if request.request_id == f"said-{self.failing_index}":
            raise EngineDied("gone", backend="scripted")
        num_tokens = request.sampling.max_tokens
        for token_id in range(1, num_tokens + 1):
            best = TokenAlternative(token_id, f"w{token_id}", -0.5)
            logprob = TokenLogprob(token_id, f"w{token_id}", -0.5, (best,) * (request.logprobs or 0))
            last = token_id == num_tokens
            yield GenerationChunk(
                text=f"w{token_id} ", token_ids=(token_id,), num_tokens=1, logprobs=(logprob,),
                received_at=self.clock.now(),
                usage=Usage(num_prompt_tokens=3, num_output_tokens=num_tokens) if last else None,
                finish_reason=FinishReason.LENGTH if last else None,
            )  # fmt: skip


def asked(backend: TellingBackend, *, num_requests: int = 3, max_tokens: int = 4) -> list[Answer]:
    async def main() -> list[Answer]:
        requests = small_plan(num_requests, max_tokens=max_tokens).loads[0].requests
        return await ask(await started(backend), requests)

    return asyncio.run(main())


def test_answers_come_with_a_logprob_for_each_token() -> None:
    backend = TellingBackend(VirtualClock())
    first, *_ = answers = asked(backend)
    assert [answer.index for answer in answers] == [0, 1, 2]
    assert first.token_ids == (1, 2, 3, 4)
    assert [logprob.token for logprob in first.logprobs or ()] == ["w1", "w2", "w3", "w4"]
    assert backend.asked[0].logprobs == 5


def test_long_answers_are_cut_and_everything_else_is_asked_as_planned() -> None:
    backend = TellingBackend(VirtualClock())
    (answer,) = asked(backend, num_requests=1, max_tokens=100)
    assert answer.num_tokens == MAX_TOKENS
    planned = small_plan(1, max_tokens=100).loads[0].requests[0].to_request("said-0")
    assert backend.asked[0].prompt == planned.prompt
    assert backend.asked[0].sampling == replace(planned.sampling, max_tokens=MAX_TOKENS)


def test_a_request_that_fails_is_left_out() -> None:
    assert [answer.index for answer in asked(TellingBackend(VirtualClock(), failing_index=1))] == [0, 2]


def test_an_engine_without_logprobs_and_a_simulated_one_are_not_asked() -> None:
    without = TellingBackend(VirtualClock(), features=frozenset(Feature) - {Feature.LOGPROBS})
    assert asked(without) == []
    assert asked(TellingBackend(VirtualClock(), simulated=True)) == []
    assert without.asked == []


def bench(out: Path, backends: dict[str, TellingBackend], *, num_starts: int = 2) -> Bench:
    def subject(label: str) -> Subject:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Backend, None]:
            yield await started(backends[label])

        return Subject(label=label, kind=label, open=opened)

    clock = next(iter(backends.values())).clock
    settings = BenchSettings(num_starts=num_starts, num_logprob_prompts=3)
    return Bench(
        small_plan(4), [subject(label) for label in backends], out=out, clock=clock, watcher=SilentWatcher(),
        environment=ENVIRONMENT, settings=settings,
    )  # fmt: skip


def test_a_comparison_asks_each_backend_once_and_keeps_what_it_said(tmp_path: Path) -> None:
    async def main() -> dict[str, TellingBackend]:
        clock = VirtualClock()
        backends = {label: TellingBackend(clock) for label in "ab"}
        await bench(tmp_path, backends).run()
        return backends

    backends = asyncio.run(main())
    lines = read_answers(tmp_path / "answers.jsonl")
    assert [(line.label, line.answer.index) for line in lines] == [
        (label, index) for label in "ab" for index in (0, 1, 2)
    ]
    # After the last of the four measured requests of the first start.
    assert [len(backend.asked) for backend in backends.values()] == [3, 3]
    assert [len(backend.seen) for backend in backends.values()] == [8, 8]
    kept = read_kept(tmp_path, small_plan(4))
    assert list(kept.answers) == lines


def test_a_backend_that_is_measured_alone_is_asked_nothing(tmp_path: Path) -> None:
    async def main() -> TellingBackend:
        backend = TellingBackend(VirtualClock())
        await bench(tmp_path, {"a": backend}).run()
        return backend

    assert asyncio.run(main()).asked == []
    assert read_answers(tmp_path / "answers.jsonl") == []
