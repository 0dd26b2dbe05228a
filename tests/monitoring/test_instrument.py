"""Every request is counted once, whatever becomes of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from enginebay.errors import EngineStepFailed, InvalidRequest, NotStarted
from enginebay.guard import GuardedBackend
from enginebay.monitoring import InstrumentedBackend, instrument
from enginebay.monitoring.request_metrics import TokenRate
from enginebay.statistics.histogram import Histogram
from enginebay.types import (
    BackendInfo,
    Capabilities,
    Delivery,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    SamplingParams,
    Text,
    Usage,
)


class StoppedClock:
    def __init__(self) -> None:
        self.instant = 100.0

    def now(self) -> float:
        return self.instant

    async def sleep_until(self, instant: float) -> None:
        self.instant = max(self.instant, instant)


class TimedBackend:
    """Chunks of given sizes at given instants; the prompt's text says how it ends."""

    def __init__(self, clock: StoppedClock, script: list[tuple[float, int]]) -> None:
        features = frozenset({Feature.TEXT_PROMPT})
        self.info = BackendInfo(kind="timed", name="timed", model="m", capabilities=Capabilities(features=features))
        self._clock, self._script = clock, script
        self.stats_delay: asyncio.Event | None = None

    async def start(self) -> None: ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        assert isinstance(request.prompt, Text)
        if request.prompt.text == "refused":
            raise InvalidRequest("no", field="prompt")
        return self._generate(request.prompt.text)

    async def _generate(self, how: str) -> AsyncGenerator[GenerationChunk, None]:
        num_tokens = 0
        for index, (at, size) in enumerate(self._script):
            if how == "hang" and index == 1:
                await asyncio.Event().wait()
            if how == "break" and index == 1:
                raise EngineStepFailed("step failed", backend="timed")
            self._clock.instant = at
            num_tokens += size
            is_last = index == len(self._script) - 1
            yield GenerationChunk(
                text="x" * size,
                num_tokens=size,
                received_at=at,
                usage=Usage(5, num_tokens) if is_last else None,
                finish_reason=FinishReason.LENGTH if is_last else None,
            )

    async def health(self) -> Health:
        return Health(HealthState.READY)

    async def stats(self) -> EngineStats:
        return EngineStats()

    async def aclose(self) -> None: ...


def request(text: str, delivery: Delivery = "stream") -> GenerationRequest:
    return GenerationRequest(
        request_id="r", prompt=Text(text), sampling=SamplingParams(max_tokens=9), delivery=delivery
    )


async def started(script: list[tuple[float, int]]) -> InstrumentedBackend:
    clock = StoppedClock()
    backend = instrument(GuardedBackend(TimedBackend(clock, script)), clock=clock)
    await backend.start()
    return backend


def values(text: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.get(label, "") for label in ("outcome", "le")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


SCRIPT = [(100.5, 1), (100.7, 3), (101.0, 1)]


def test_latencies_are_those_of_the_tokens_not_of_the_chunks() -> None:
    async def main() -> None:
        backend = await started(SCRIPT)
        async for _ in backend.generate(request("fine")):
            pass
        seen = values(await backend.metrics_text())
        assert seen["llm_requests_totallength"] == 1
        assert seen["llm_time_to_first_token_seconds_sum"] == pytest.approx(0.5)
        assert seen["llm_inter_token_latency_seconds_count"] == 4  # 0.2, 0, 0, 0.3
        assert seen["llm_inter_token_latency_seconds_sum"] == pytest.approx(0.5)
        assert seen["llm_inter_token_latency_seconds_bucket0.001"] == 2
        assert seen["llm_request_latency_seconds_sum"] == pytest.approx(1.0)
        assert seen["llm_tokens_generated_total"] == 5
        assert seen["llm_prompt_tokens_total"] == 5
        assert seen["llm_tokens_per_second"] == 0.5
        assert seen["llm_requests_in_flight"] == 0

    asyncio.run(main())


def test_an_answer_in_one_piece_says_nothing_of_the_times_of_its_tokens() -> None:
    async def main() -> None:
        backend = await started(SCRIPT)
        async for _ in backend.generate(request("fine", "final")):
            pass
        seen = values(await backend.metrics_text())
        assert seen["llm_time_to_first_token_seconds_count"] == 0
        assert seen["llm_inter_token_latency_seconds_count"] == 0
        assert (seen["llm_request_latency_seconds_count"], seen["llm_tokens_generated_total"]) == (1, 5)

    asyncio.run(main())


def test_a_refusal_a_failure_and_a_cancellation_are_told_apart() -> None:
    async def main() -> None:
        backend = await started(SCRIPT)
        with pytest.raises(InvalidRequest):
            backend.generate(request("refused"))
        with pytest.raises(EngineStepFailed):
            async for _ in backend.generate(request("break")):
                pass

        async def consume() -> None:
            async for _ in backend.generate(request("hang")):
                reached.set()

        reached = asyncio.Event()
        task = asyncio.create_task(consume())
        await reached.wait()
        assert backend.metrics.num_in_flight == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with aclosing(backend.generate(request("fine"))) as stream:
            await stream.__anext__()  # and leaves
        assert backend.metrics.num_requests_by_outcome == {"refused": 1, "error": 1, "cancelled": 2}
        assert backend.metrics.num_in_flight == 0
        await backend.aclose()
        with pytest.raises(NotStarted):
            backend.generate(request("fine"))
        assert backend.metrics.num_requests_by_outcome["error"] == 2

    asyncio.run(main())


def test_a_stream_that_never_begins_counts_nothing() -> None:
    async def main() -> None:
        backend = await started(SCRIPT)
        stream = backend.generate(request("fine"))
        await stream.aclose()
        assert not backend.metrics.num_requests_by_outcome
        assert backend.metrics.num_in_flight == 0

    asyncio.run(main())


def test_in_flight_is_raised_before_the_first_await() -> None:
    async def main() -> None:
        backend = await started([(100.5, 1), (100.6, 1)])
        task = asyncio.ensure_future(backend.generate(request("hang")).__anext__())
        await asyncio.sleep(0)
        assert backend.metrics.num_in_flight == 1
        await task

    asyncio.run(main())


def test_the_metrics_of_an_engine_that_tells_nothing_say_so() -> None:
    async def main() -> None:
        clock = StoppedClock()
        backend = instrument(GuardedBackend(TimedBackend(clock, SCRIPT)), clock=clock)
        assert values(await backend.metrics_text())["enginebay_engine_stats_up"] == 0  # not started
        await backend.start()
        seen = values(await backend.metrics_text())
        assert seen["enginebay_engine_stats_up"] == 1
        assert "llm_batch_size" not in seen

    asyncio.run(main())


def test_a_histogram_counts_a_bound_into_its_own_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    snapshot = histogram.snapshot()
    assert snapshot.counts == (2, 4, 5)
    assert snapshot.bounds == (1.0, 2.0, float("inf"))
    assert (snapshot.sum, snapshot.count) == (14.0, 5)


def test_the_token_rate_forgets_after_ten_seconds() -> None:
    clock = StoppedClock()
    rate = TokenRate(clock)
    rate.add(50)
    clock.instant += 5
    rate.add(50)
    assert rate.per_second() == 10.0
    clock.instant += 5
    assert rate.per_second() == 5.0
    clock.instant += 5
    assert rate.per_second() == 0.0
