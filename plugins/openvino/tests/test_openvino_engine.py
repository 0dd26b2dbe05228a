"""The engine's side of the worker, around a fake OpenVINO GenAI of the real shape."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from enginebay.clock import MonotonicClock
from enginebay.config.settings import EngineSettings
from enginebay.errors import (
    ContextTooLong,
    EngineDied,
    EngineStepFailed,
    InvalidRequest,
    StartFailed,
    UnsupportedFeature,
)
from enginebay.guard import GuardedBackend
from enginebay.loadtest.validity.settings import effective_settings, settings_differ
from enginebay.plugins import get_backend
from enginebay.types import (
    Chat,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay_openvino.in_process import OpenVinoEngine

FAKES = Path(__file__).parent / "fakes"
EOS = 256


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "openvino_model.xml").touch()
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 258, "max_position_embeddings": 200}))
    specials = [{"id": EOS, "special": True}, {"id": 257, "special": True}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": specials, "decoder": {"type": "ByteLevel"}}))
    return tmp_path


@pytest.fixture
def fake_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKES))
    for name in ("openvino", "openvino_genai"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(FAKES))  # for a worker under this interpreter


def asked(prompt: Prompt | str, *, max_tokens: int = 64, request: dict[str, object] | None = None, **sampling: object):
    sampling.setdefault("temperature", 0.0)
    return GenerationRequest(
        request_id="r",
        prompt=Text(prompt) if isinstance(prompt, str) else prompt,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
        **(request or {}),  # type: ignore[arg-type]
    )


def with_engine(model_dir: Path, test: Callable[[OpenVinoEngine], Awaitable[None]], **keywords: object) -> None:
    async def main() -> None:
        engine = OpenVinoEngine()
        await engine.start({"model": str(model_dir), "device": "CPU", **keywords})
        try:
            await test(engine)
        finally:
            await engine.close()

    asyncio.run(main())


async def answer(engine: OpenVinoEngine, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in engine.generate(request)]


async def text_of(engine: OpenVinoEngine, request: GenerationRequest) -> str:
    return "".join(chunk.text for chunk in await answer(engine, request))


@pytest.mark.usefixtures("fake_openvino")
class TestAnswers:
    def test_characters_come_whole_and_the_end_has_no_text(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            chunks = await answer(engine, asked("say:Ünï 🙂"))
            assert "".join(chunk.text for chunk in chunks) == "Ünï 🙂"
            assert all("\ufffd" not in chunk.text for chunk in chunks)
            last = chunks[-1]
            assert (last.finish_reason, last.stop_reason, last.token_ids) == (FinishReason.STOP, None, (EOS,))
            assert last.usage is not None
            assert last.usage.num_output_tokens == len("Ünï 🙂".encode()) + 1 == len(chunks)
            assert last.usage.num_prompt_tokens == len("say:Ünï 🙂".encode())

        with_engine(model_dir, test)

    def test_without_a_byte_vocabulary_the_tokenizer_itself_is_asked(self, model_dir: Path) -> None:
        (model_dir / "tokenizer.json").unlink()

        async def test(engine: OpenVinoEngine) -> None:
            assert await text_of(engine, asked("say: Ünï 🙂 x")) == " Ünï 🙂 x"

        with_engine(model_dir, test)

    @pytest.mark.parametrize(
        ("sampling", "text", "stop_reason"),
        [
            ({"stop": ("wor", "zz")}, "hello ", "wor"),
            ({"stop": ("lo w",), "include_stop_str_in_output": True}, "hello w", "lo w"),
            ({"stop": ("hell",), "min_tokens": 5}, "hello world", None),
            ({"stop_token_ids": (ord("w"),)}, "hello ", ord("w")),
            ({"stop_token_ids": (ord("w"),), "ignore_eos": True}, "hello ", ord("w")),
            ({"stop_token_ids": (ord("w"),), "include_stop_str_in_output": True}, "hello w", ord("w")),
            ({"max_tokens": 3}, "hel", None),
            ({"max_tokens": 14, "ignore_eos": True}, "hello world..", None),
            ({"max_tokens": 14, "ignore_eos": True, "skip_special_tokens": False}, "hello world<end>..", None),
            ({"max_tokens": 14, "min_tokens": 13}, "hello world-.", None),
        ],
    )
    def test_where_an_answer_ends(self, model_dir: Path, sampling, text: str, stop_reason: object) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            chunks = await answer(engine, asked("say:hello world", **sampling))
            assert "".join(chunk.text for chunk in chunks).startswith(text)
            if stop_reason is not None:
                assert "".join(chunk.text for chunk in chunks) == text
            assert chunks[-1].stop_reason == stop_reason
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.num_output_tokens == sum(chunk.num_tokens or 0 for chunk in chunks)

        with_engine(model_dir, test)

    def test_only_the_chosen_tokens_log_probability_is_told(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            first, *_ = await answer(engine, asked("say:hi", request={"logprobs": 0}))
            assert first.logprobs is not None
            [chosen] = first.logprobs
            assert (chosen.token_id, chosen.token, chosen.logprob, chosen.alternatives) == (ord("h"), "h", -0.5, ())
            assert (await answer(engine, asked("say:hi")))[0].logprobs is None

        with_engine(model_dir, test)

    def test_a_chat_is_rendered_by_the_models_template_or_the_requests_own(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            chat = Chat((Message("user", "say:yes"),))
            assert await text_of(engine, asked(chat)) == "yes"
            assert await engine.count_tokens(chat) == tuple(b"user:say:yes")
            with pytest.raises(InvalidRequest, match="refuses these messages: no system role") as caught:
                await engine.count_tokens(Chat((Message("user", "x"),), template="raise_exception"))
            assert caught.value.field == "messages"

        with_engine(model_dir, test)


@pytest.mark.usefixtures("fake_openvino")
class TestRefusals:
    @pytest.mark.parametrize(
        ("prompt", "max_tokens", "field"),
        [("x" * 200, 1, "prompt"), ("x" * 150, 51, "max_tokens"), (Chat((Message("user", "x" * 200),)), 1, "messages")],
    )
    def test_what_is_longer_than_the_context_is_refused(self, model_dir: Path, prompt, max_tokens, field) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            with pytest.raises(ContextTooLong) as caught:
                await answer(engine, asked(prompt, max_tokens=max_tokens))
            assert (caught.value.field, caught.value.limit) == (field, 200)
            cut = asked("x" * 400 + "say:a", max_tokens=10, request={"truncate_prompt_tokens": 50})
            assert await text_of(engine, cut) == "a"

        with_engine(model_dir, test)

    def test_a_shorter_limit_is_minded_and_so_is_a_prompt_that_must_fit_into_one_step(self, model_dir: Path) -> None:
        async def limit(engine: OpenVinoEngine) -> None:
            with pytest.raises(ContextTooLong, match="is 20 tokens"):
                await answer(engine, asked("x" * 30))

        with_engine(model_dir, limit, adapter={"max_model_len": 20})
        scheduler = {"dynamic_split_fuse": False, "max_num_batched_tokens": 20, "max_num_seqs": 4}
        with_engine(model_dir, limit, scheduler=scheduler)

    def test_tokens_outside_the_vocabulary_and_empty_prompts_are_refused(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            with pytest.raises(InvalidRequest, match="has token 258, the vocabulary 258"):
                await answer(engine, asked(TokenIds((1, 258))))
            with pytest.raises(InvalidRequest, match="the prompt is empty"):
                await answer(engine, asked(""))

        with_engine(model_dir, test)

    def test_a_request_that_outgrows_the_cache_ends_typed_and_alone(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            bad, good = await asyncio.gather(
                answer(engine, asked("overflow")), text_of(engine, asked("say:fine")), return_exceptions=True
            )
            assert isinstance(bad, EngineStepFailed)
            assert "more than the KV cache holds" in str(bad)
            assert good == "fine"

        with_engine(model_dir, test)

    def test_a_step_that_fails_ends_its_requests_and_the_next_are_served(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            with pytest.raises(EngineStepFailed, match="a step of the engine failed: no block fits"):
                await answer(engine, asked("explode"))
            assert await text_of(engine, asked("say:fine")) == "fine"

        with_engine(model_dir, test)

    def test_settings_that_no_step_would_survive_fail_the_start(self, model_dir: Path) -> None:
        with pytest.raises(StartFailed, match=r"max_num_seqs \(256\) is more than max_num_batched_tokens \(20\)"):
            with_engine(model_dir, _nothing, scheduler={"dynamic_split_fuse": False, "max_num_batched_tokens": 20})
        with pytest.raises(StartFailed, match="Device 'GPU' is not registered"):
            with_engine(model_dir, _nothing, device="GPU")


async def _nothing(engine: OpenVinoEngine) -> None:
    raise AssertionError("it must not start")


@pytest.mark.usefixtures("fake_openvino")
class TestFigures:
    def test_a_cancelled_request_frees_its_place_in_the_engines_own_figures(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            endless = asked("say:x", max_tokens=100, ignore_eos=True)
            tasks = [asyncio.create_task(answer(engine, endless)) for _ in range(3)]
            for _ in range(20):
                await asyncio.sleep(0)
            stats = engine.stats()
            assert (stats.requests_running, stats.requests_waiting, stats.kv_cache_usage_ratio) == (2, 1, 1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(20):
                await asyncio.sleep(0)
            stats = engine.stats()
            assert (stats.requests_running, stats.requests_waiting, stats.kv_cache_usage_ratio) == (0, 0, 0.0)
            assert stats.extra["openvino_pipeline_requests"] == 0
            assert stats.requests_total_by_finish_reason == {"abort": 3}

        with_engine(model_dir, test, scheduler={"max_num_seqs": 2})

    def test_counters_and_histograms_grow_with_the_answers(self, model_dir: Path) -> None:
        async def test(engine: OpenVinoEngine) -> None:
            await answer(engine, asked("say:abc"))
            stats = engine.stats()
            assert stats.requests_total_by_finish_reason == {"stop": 1}
            assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (7, 4)
            assert stats.ttft_seconds is not None
            assert stats.inter_token_seconds is not None
            assert (stats.ttft_seconds.count, stats.inter_token_seconds.count) == (1, 3)

        with_engine(model_dir, test)


@pytest.mark.usefixtures("fake_openvino")
class TestThroughTheWorker:
    def backend(self, model_dir: Path, **settings: object) -> GuardedBackend:
        return get_backend("openvino", model=str(model_dir), clock=MonotonicClock(), **settings)  # type: ignore[arg-type]

    def test_the_backend_serves_and_tells_its_effective_settings(self, model_dir: Path) -> None:
        async def main() -> None:
            backend = self.backend(model_dir, max_num_seqs=3, max_model_len=100, dtype="float32", cache_size_gb=2)
            async with backend:
                chunks = [chunk async for chunk in backend.generate(asked("say:hey"))]
                assert "".join(chunk.text for chunk in chunks) == "hey"
                assert backend.info.engine_version == "2026.4.1.0"
                assert backend.info.max_model_len == 100
                effective = backend.info.effective_settings
                minded_by_the_worker = {"max_num_seqs": 3, "max_model_len": 100}
                told = {name: effective[name] for name in EngineSettings.model_fields if name in effective}
                assert told == minded_by_the_worker
                assert effective["scheduler_cache_size"] == 2
                defaults = effective["device_default_dtype"], effective["device_default_kv_cache_dtype"]
                assert defaults == ("bfloat16", "int8")
                with pytest.raises(UnsupportedFeature, match="logit_bias"):
                    backend.generate(asked("x", logit_bias={1: 1.0}))
                with pytest.raises(InvalidRequest, match="logprobs is 1"):
                    backend.generate(asked("x", request={"logprobs": 1}))

        asyncio.run(main())

    @pytest.mark.parametrize("kv_cache_dtype", ["int8", "u8", "fp16", "float16", "bfloat16", "float32"])
    def test_what_was_only_asked_for_is_not_told_as_in_force(self, model_dir: Path, kv_cache_dtype: str) -> None:
        async def main() -> None:
            asked_for = {"kv_cache_dtype": kv_cache_dtype, "dtype": "bfloat16", "enable_prefix_caching": True}
            async with self.backend(model_dir, **asked_for) as backend:
                told = backend.info.effective_settings
                assert not asked_for.keys() & told.keys()
                assert list(settings_differ(asked_for, effective_settings(asked_for, told))) == []

        asyncio.run(main())

    def test_a_device_that_is_not_there_is_named(self, model_dir: Path) -> None:
        async def main() -> None:
            with pytest.raises(StartFailed, match="Device 'GPU' is not registered"):
                await self.backend(model_dir, device="GPU").start()

        asyncio.run(main())

    def test_quantising_a_converted_model_is_refused(self, model_dir: Path) -> None:
        async def main() -> None:
            with pytest.raises(StartFailed, match=r"is converted already: engine\.quantization"):
                await self.backend(model_dir, quantization="int8").start()

        asyncio.run(main())

    def test_an_engine_that_is_killed_ends_its_streams_typed(self, model_dir: Path) -> None:
        async def main() -> None:
            async with self.backend(model_dir) as backend:
                [worker] = psutil.Process(backend.inner.pid).children()  # type: ignore[attr-defined]
                worker.suspend()  # else it may have said all of it before it dies
                answering = asyncio.ensure_future(answer(backend, asked("say:x", max_tokens=150, ignore_eos=True)))
                await asyncio.sleep(0)
                worker.kill()
                with pytest.raises(EngineDied):
                    await answering

        asyncio.run(main())
