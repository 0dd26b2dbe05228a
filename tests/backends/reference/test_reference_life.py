"""Start, settings, close, and what the backend says of itself."""

import asyncio
import threading

import msgspec
import pytest
from fake_process import FakeProcess, says
from scripted_reference import collect, ids, new_backend, request, started

from enginebay.backends.reference.effective_settings import effective_settings
from enginebay.backends.reference.engine_messages import EngineReady
from enginebay.engine.request import EngineOutput
from enginebay.engine.settings import EngineConfig
from enginebay.errors import (
    EngineDied,
    NotStarted,
    StartFailed,
)
from enginebay.monitoring import instrument
from enginebay.types import (
    Health,
    HealthState,
)


def test_the_info_tells_the_context_and_the_effective_settings_after_start(model_dir):
    async def main():
        settings = {"max_num_seqs": 3, "dtype": "auto", "served_model_name": "assistant"}
        async with started(model_dir, says(1), settings=settings, options={"policy": "naive"}) as (backend, process):
            info = backend.info
            assert (info.model, info.max_model_len) == ("assistant", 64)
            assert process.config.max_num_seqs == 3
            assert (process.config.policy, process.config.dtype) == ("naive", "bfloat16")
            assert info.effective_settings["policy"] == "naive"
            assert info.effective_settings["dtype"] == "float32", "what the engine says goes before what was asked"
            assert "max_num_seqs" not in info.effective_settings, "the naive policy has one slot, whatever was asked"
            assert not any(str(model_dir) in str(value) for value in info.effective_settings.values())
            assert (await backend.health()).state is HealthState.READY

    asyncio.run(main())


def test_the_effective_settings_are_those_the_engine_says_it_has():
    ready = EngineReady(
        max_model_len=64, vocab_size=9, eos_token_ids=(1,), num_blocks=7, block_size=8, architecture="Tiny",
        dtype="float32", device="cpu", policy="static", max_num_seqs=4, max_num_batched_tokens=99, num_threads=2,
        enable_prefix_caching=False, kernels="plain", torch_version="2", memory="much",
        quantization="int8", weight_bytes=1, stored_weight_bytes=2, weight_layouts="linear, int8 1",
        kv_cache_allocated_bytes=1,
    )  # fmt: skip
    asked = EngineConfig(
        model_dir="/weights", policy="static", dtype="bfloat16", max_num_seqs=5, quantization="int8"
    )  # fmt: skip
    assert effective_settings(asked, ready) == {
        "policy": "static", "dtype": "float32", "kv_cache_dtype": "float32",
        "device": "cpu", "kernels": "plain", "max_num_seqs": 4,
        "max_model_len": 64, "max_num_batched_tokens": 99, "chunked_prefill": True, "static_batch_timeout_s": 0.2,
        "enable_prefix_caching": False, "block_size": 8, "num_blocks": 7, "num_threads": 2, "torch_version": "2",
        "architecture": "Tiny", "quantization": "int8", "smooth_int8": True, "batch_invariant": False,
        "weight_bytes": 1, "stored_weight_bytes": 2, "weight_layouts": "linear, int8 1", "kv_cache_allocated_bytes": 1,
        "num_slots": 4,
    }  # fmt: skip
    in_int8 = msgspec.structs.replace(asked, kv_cache_dtype="int8")
    assert effective_settings(in_int8, ready)["kv_cache_dtype"] == "int8"


def test_a_start_that_fails_closes_the_process(model_dir):
    class NeverReady(FakeProcess):
        async def start(self):
            raise StartFailed("no memory", likely_cause="a large model")

    async def main():
        process = NeverReady(says(1))
        with pytest.raises(StartFailed, match="no memory"):
            await new_backend(model_dir, process).start()
        assert process.is_closed

    asyncio.run(main())


def test_closing_ends_a_start_that_still_reads_its_tokenizer_and_makes_no_process(model_dir, monkeypatch):
    async def main():
        process = FakeProcess(says(1))
        inner = new_backend(model_dir, process).inner
        starting = asyncio.create_task(inner.start())
        await asyncio.sleep(0)
        await inner.aclose()
        with pytest.raises(NotStarted, match="closed"):
            await starting
        assert process.config is None

    asyncio.run(main())


def test_closing_ends_requests_that_wait_for_the_tokenizer_with_an_error_of_their_own(model_dir, monkeypatch):
    may_go_on = threading.Event()

    async def main():
        loop, at_work = asyncio.get_running_loop(), asyncio.Semaphore(0)

        def blocked(prompt, tokenizer):
            loop.call_soon_threadsafe(at_work.release)
            assert may_go_on.wait(20)
            return [1]

        async with started(model_dir, says(1)) as (backend, _):
            monkeypatch.setattr("enginebay.backends.reference.backend.prompt_token_ids", blocked)
            long = request("a" * 5000)
            waiting = [asyncio.create_task(collect(backend, long)) for _ in range(6)]
            late = backend.generate(long)
            num_at_work = 2  # each in a thread of its own: no closing takes that away
            for _ in range(num_at_work):
                await at_work.acquire()
            await backend.aclose()
            may_go_on.set()
            waiting.append(asyncio.ensure_future(anext(late)))
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(result) for result in results[num_at_work:]} == {NotStarted}
            assert not any(isinstance(result, NotStarted) for result in results[:num_at_work])

    asyncio.run(main())


def test_the_environment_of_the_entry_is_handed_to_the_engine(model_dir):
    async def main():
        async with started(model_dir, says(1), environment={"OMP_NUM_THREADS": "7"}) as (_, process):
            assert process.environment == {"OMP_NUM_THREADS": "7"}

    asyncio.run(main())


def test_before_start_it_is_loading_and_refuses_requests(model_dir):
    async def main():
        inner = new_backend(model_dir, FakeProcess(says(1))).inner
        assert (await inner.health()).state is HealthState.LOADING
        with pytest.raises(NotStarted):
            inner.generate(request())
        await inner.aclose()

    asyncio.run(main())


# ---------------------------------------------------------------- statistics


def test_the_statistics_of_a_dead_engine_are_none(model_dir):
    async def main():
        async with started(model_dir, says(*ids("the fox"))) as (backend, process):
            exporter = instrument(backend)
            assert b"enginebay_engine_stats_up" in (up := await exporter.metrics_text())
            assert b"} 1.0" in next(line for line in up.splitlines() if line.startswith(b"enginebay_engine_stats_up{"))
            process.health_now = Health(HealthState.DEAD, "the engine's process was killed by SIGKILL")
            with pytest.raises(EngineDied, match="SIGKILL"):
                await backend.stats()
            text = await exporter.metrics_text()
            assert b"} 0.0" in next(
                line for line in text.splitlines() if line.startswith(b"enginebay_engine_stats_up{")
            )

    asyncio.run(main())


def test_the_statistics_count_what_was_delivered(model_dir):
    async def main():
        async with started(model_dir, says(*ids("the fox"))) as (backend, _):
            num_tokens = len(ids("the fox"))
            await collect(backend, request("hello"))
            await collect(backend, request("hello", delivery="final"))
            stats = await backend.stats()
            assert stats.requests_total_by_finish_reason == {"length": 2}
            assert stats.generation_tokens_total == 2 * num_tokens
            assert stats.prompt_tokens_total == 2 * len(ids("hello"))
            assert stats.ttft_seconds.count == stats.e2e_seconds.count == 2
            assert stats.inter_token_seconds.count == 2 * (num_tokens - 1)
            assert stats.inter_token_seconds.sum == pytest.approx(2 * (num_tokens - 1))
            assert stats.kv_cache_usage_ratio == 0.6
            assert stats.gpu_memory_bytes is None
            assert stats.extra["enginebay_engine_steps_total"] == 7

    asyncio.run(main())


def test_the_time_in_the_queue_is_observed_once_for_each_request(model_dir):
    def script(asked):
        for index in range(3):
            yield EngineOutput(
                request_id=asked.request_id,
                token_ids=[7],
                finish_reason="length" if index == 2 else None,
                queue_s=0.03 if index == 0 else None,
            )

    async def main():
        async with started(model_dir, script) as (backend, _):
            await collect(backend, request())
            queued = (await backend.stats()).queue_seconds
            assert (queued.count, queued.sum) == (1, 0.03)

    asyncio.run(main())
