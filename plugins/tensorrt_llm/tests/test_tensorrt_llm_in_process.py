"""Mode in_process against a made-up `tensorrt_llm` of the contract's shape. The real one has not run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from tensorrt_llm_simulator import contract

from enginebay import get_backend
from enginebay.errors import InvalidRequest, StartFailed, UnsupportedFeature, UpstreamError
from enginebay.guard import GuardedBackend
from enginebay.types import (
    Chat,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay_tensorrt_llm.in_process import sampling_keywords

FAKE = Path(__file__).parent / "fake_engine"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the fake engine was asked to do; its process finds it on the PYTHONPATH."""
    path = tmp_path / "log.txt"
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def make(model: str, log: Path, **engine: object) -> GuardedBackend:
    environment = {"FAKE_TENSORRT_LLM_LOG": str(log)}
    return get_backend("tensorrt_llm", mode="in_process", model=model, engine=engine, environment=environment)


def ask(text: str = "one two three", **fields: object) -> GenerationRequest:
    sampling = SamplingParams(**{"max_tokens": 5, **fields})  # type: ignore[arg-type]
    return GenerationRequest(request_id="r", prompt=Text(text), sampling=sampling)


async def answer(backend: GuardedBackend, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(request)]


def test_tokens_text_usage_and_the_end_come_through(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(model, log, max_num_seqs=4, max_model_len=512) as backend:
            chunks = await answer(backend, ask(seed=3))
            assert "".join(chunk.text for chunk in chunks) == " w3 w4 w5 w6 w7"
            assert [token for chunk in chunks for token in chunk.token_ids or ()] == [3, 4, 5, 6, 7]
            last = chunks[-1]
            assert last.finish_reason is FinishReason.LENGTH
            assert last.usage is not None
            assert (last.usage.num_prompt_tokens, last.usage.num_output_tokens) == (3, 5)
            assert backend.info.engine_version == "1.2.1+fake"
            tokens = GenerationRequest(request_id="t", prompt=TokenIds((9, 8)), sampling=SamplingParams(max_tokens=1))
            assert (await answer(backend, tokens))[-1].usage.num_prompt_tokens == 2  # type: ignore[union-attr]

    asyncio.run(main())
    assert log.read_text().splitlines()[-1] == "shutdown"


def test_the_effective_settings_are_what_the_engine_tells_not_what_was_asked(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(model, log, max_num_seqs=4, max_model_len=512, gpu_memory_fraction=0.5) as backend:
            told = backend.info.effective_settings
            assert (told["max_num_seqs"], told["max_model_len"], told["tensor_parallel_size"]) == (4, 400, 1)
            assert told["kv_cache_config.free_gpu_memory_fraction"] == 0.5
            assert backend.info.max_model_len == 400
            assert not {"dtype", "max_num_batched_tokens"} & told.keys()  # undecided, and not told

    asyncio.run(main())


def test_an_engine_that_tells_nothing_leaves_its_settings_unknown(model: str, log: Path) -> None:
    environment = {"FAKE_TENSORRT_LLM_LOG": str(log), "FAKE_TENSORRT_LLM_IS_SILENT": "1"}

    async def main() -> None:
        asked = {"max_model_len": 512}
        async with get_backend(
            "tensorrt_llm", mode="in_process", model=model, engine=asked, environment=environment
        ) as backend:
            assert backend.info.effective_settings == {}
            assert backend.info.max_model_len is None

    asyncio.run(main())


def test_nested_settings_become_configuration_objects(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(
            model, log, gpu_memory_fraction=0.5, kv_cache_dtype="fp8", speculative_ngram=3, dtype="float16"
        ):
            pass

    asyncio.run(main())
    first = log.read_text().splitlines()[0]
    assert "NGramDecodingConfig" in first
    assert "'kv_cache_config'" in first
    assert "revision" not in first


def test_requests_without_a_seed_get_different_ones(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(model, log) as backend:
            texts = {"".join(chunk.text for chunk in await answer(backend, ask())) for _ in range(4)}
            assert len(texts) > 1

    asyncio.run(main())


def test_a_consumer_that_leaves_aborts_the_request(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(model, log) as backend:
            stream = backend.generate(ask(max_tokens=10_000))
            await anext(stream)
            await stream.aclose()
            await answer(backend, ask())

    asyncio.run(main())
    assert log.read_text().splitlines().count("abort") == 1


def test_iterations_become_statistics(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(model, log) as backend, asyncio.timeout(20):
            while (await backend.stats()).gpu_memory_bytes is None:
                await answer(backend, ask())
            assert (await backend.stats()).requests_waiting == 0

    asyncio.run(main())


def test_statistics_that_cannot_be_read_are_told_and_come_back(model: str, log: Path) -> None:
    missing = log.with_name("no_statistics")

    async def main() -> None:
        async with make(model, log) as backend, asyncio.timeout(20):
            missing.touch()
            error = await first_error_of_stats(backend)
            assert "the executor has no statistics" in str(error)
            assert (await answer(backend, ask()))[-1].finish_reason is FinishReason.LENGTH
            missing.unlink()
            while (await stats_or_none(backend)) is None:
                pass

    asyncio.run(main())


async def first_error_of_stats(backend: GuardedBackend) -> UpstreamError:
    while True:
        try:
            await backend.stats()
        except UpstreamError as error:
            return error


async def stats_or_none(backend: GuardedBackend) -> EngineStats | None:
    try:
        return await backend.stats()
    except UpstreamError:
        return None


def test_the_made_up_engine_takes_what_the_contract_lists() -> None:
    found = spec_from_file_location("names", FAKE / "tensorrt_llm" / "names.py")
    assert found is not None
    assert found.loader is not None
    names = module_from_spec(found)
    found.loader.exec_module(names)
    api = contract()["in_process_api"]
    assert list(names.CONSTRUCTOR) == api["constructor"]
    assert dict(names.SAMPLING_PARAMS) == api["sampling_params"]


def test_every_sampling_argument_of_ours_is_one_of_the_contract() -> None:
    """The made-up class refuses any other, as the real one does."""
    assert sampling_keywords(ask(), drawn_seed=1).keys() <= contract()["in_process_api"]["sampling_params"].keys()


def test_what_the_engine_refuses_is_an_invalid_request(model: str, log: Path) -> None:
    async def main() -> None:
        async with make(model, log) as backend:
            with pytest.raises(InvalidRequest, match="refused"):
                await answer(backend, ask("this is refused"))
            chat = Chat((Message("user", "hello"),))
            with pytest.raises(UnsupportedFeature):
                backend.generate(GenerationRequest(request_id="c", prompt=chat, sampling=SamplingParams(max_tokens=1)))
            assert Feature.OUTPUT_TOKEN_IDS in backend.info.capabilities

    asyncio.run(main())


def test_an_engine_that_is_not_installed_is_said_so(model: str, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)

    async def main() -> None:
        with pytest.raises(StartFailed, match="tensorrt_llm"):
            async with make(model, log):
                pass

    asyncio.run(main())


def test_the_child_needs_msgspec_alone() -> None:
    """Of what is not the standard library: the engine's environment has none of our dependencies."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('pydantic', 'httptools', 'pluggy', 'ruamel', 'numpy')));"
        "import enginebay_tensorrt_llm.in_process"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
