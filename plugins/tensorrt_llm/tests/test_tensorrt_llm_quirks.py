"""Quirks of the contract in launch, metrics and requests, by one test of their name: handled, or shown harmless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
import test_tensorrt_llm_answer_quirks
from tensorrt_llm_asking import CHAT, answer, ask, attached, body_of, post, run, serving, text_of
from tensorrt_llm_simulator import STATS_FILE, contract, sample
from tensorrt_llm_simulator import context as make_context

from enginebay import get_backend
from enginebay.errors import (
    ConfigError,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.plugins import compile_plan
from enginebay.types import (
    Chat,
    Feature,
    HealthState,
    Text,
    TokenIds,
)
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_tensorrt_llm.in_process import sampling_keywords
from enginebay_tensorrt_llm.metrics import LINE_1_2, LINE_1_3, generation_of, stats_of
from enginebay_tensorrt_llm.plugin import enginebay_backend

SPEC = enginebay_backend()


@pytest.fixture
def stats_file(tmp_path: Path) -> str:
    path = tmp_path / "llm_options.yaml"
    path.write_text(STATS_FILE)
    return str(path)


def fields_of_contract(path: str) -> set[str]:
    endpoints = {endpoint["path"]: endpoint for endpoint in contract()["http"]["endpoints"]}
    own = endpoints[path]["request"]
    shared = endpoints["/v1/completions"]["request"] if "shared" in own else {}
    chat_alias = {"max_tokens"} if "shared" in own else set()
    known = {name for name, told in (shared | own).items() if told is not None} - {"shared"}
    return known - ({"prompt", "echo", "suffix"} if "shared" in own else set()) | chat_alias


def test_every_quirk_of_the_contract_has_a_test() -> None:
    names = [*globals(), *vars(test_tensorrt_llm_answer_quirks)]
    tested = {name.removeprefix("test_quirk_") for name in names if name.startswith("test_quirk_")}
    assert tested == {quirk["id"] for quirk in contract()["quirks"]}


# ---------------------------------------------------------------- metrics


def test_quirk_metrics_json(stats_file: str) -> None:
    async def main() -> None:
        async with serving("--extra_llm_api_options", stats_file) as simulator, attached(simulator) as backend:
            await answer(backend, ask())
            stats = await backend.stats()  # Prometheus and JSON, each where it is
            assert stats.requests_total_by_finish_reason == {"length": 1}
            assert stats.kv_cache_usage_ratio is not None
            with pytest.raises(UpstreamError):
                parse_metrics((await post(simulator, "/metrics"))[1].decode() or "[]")

    run(main())


def test_quirk_prometheus_opt_in() -> None:
    plan = compile_plan(SPEC, make_context())
    assert "return_perf_metrics: true" in plan.files["llm_options.yaml"]
    assert "enable_iter_perf_stats: true" in plan.files["llm_options.yaml"]
    plain = compile_plan(SPEC, make_context(prometheus_metrics=False, iteration_stats=False))
    assert not plain.files
    assert "--extra_llm_api_options" not in plain.command

    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            await answer(backend, ask())
            assert (await post(simulator, "/prometheus/metrics"))[0] == 404
            assert (await backend.stats()).requests_total_by_finish_reason is None  # unknown, not zero

    run(main())


def test_quirk_prefix_change() -> None:
    assert generation_of(parse_metrics(sample("tensorrt_llm_1_2.prom"))) is LINE_1_2
    assert generation_of(parse_metrics('trtllm_request_success_total{finished_reason="stop"} 1\n')) is LINE_1_3


def test_quirk_undefined_labels(stats_file: str) -> None:
    async def main() -> None:
        arguments = ("some/model", "--extra_llm_api_options", stats_file)
        async with serving(*arguments) as simulator:
            made = get_backend("tensorrt_llm", mode="external", url=simulator.url, model="hf:some/model")
            async with made as backend:
                await answer(backend, ask())
                assert b'model_name="undefined"' in (await post(simulator, "/prometheus/metrics"))[1]
                assert backend.info.model == "some/model"  # from the model list, never from a label

    run(main())


def test_quirk_pid_label() -> None:
    text = 'trtllm_kv_cache_hit_rate{pid="5"} 0.5\ntrtllm_kv_cache_hit_rate{pid="12"} 0.25\n'
    assert stats_of(parse_metrics(text))[1].prefix_cache_hit_ratio == 0.25


def test_quirk_metrics_wait(stats_file: str) -> None:
    async def main() -> None:
        """Two that ask at once share one read, so that neither takes the other's samples."""
        async with serving("--extra_llm_api_options", stats_file) as simulator, attached(simulator) as backend:
            await answer(backend, ask())
            before = simulator.num_requests
            first, second = await asyncio.gather(backend.stats(), backend.stats())
            assert first == second
            assert first.batch_size is not None
            assert simulator.num_requests - before == 3  # two of Prometheus, one of the list

    run(main())


def test_quirk_perf_metrics_drain(stats_file: str) -> None:
    async def main() -> None:
        async with serving("--extra_llm_api_options", stats_file) as simulator:
            async with attached(simulator) as backend:
                await answer(backend, ask())
            # Start, identification and health of another backend leave the samples where they are.
            async with attached(simulator) as backend:
                assert (await backend.health()).state is HealthState.READY
                assert (await backend.stats()).kv_cache_usage_ratio is not None
                assert msgspec.json.decode((await post(simulator, "/metrics"))[1]) == []

    run(main())


# ---------------------------------------------------------------- launch


def test_quirk_default_host() -> None:
    command = compile_plan(SPEC, make_context(mode="docker")).command
    assert command[command.index("--host") + 1] == "0.0.0.0"
    managed = compile_plan(SPEC, make_context()).command
    assert managed[managed.index("--host") + 1] == "127.0.0.1"


def test_quirk_underscore_flags() -> None:
    settings = {"max_num_seqs": 8, "tensor_parallel_size": 2, "chunked_prefill": True, "trust_remote_code": True}
    flags = [word for word in compile_plan(SPEC, make_context(settings)).arguments if word.startswith("--")]
    assert len(flags) == 5
    assert not [flag for flag in flags if "-" in flag.removeprefix("--")]


def test_quirk_memory_fraction() -> None:
    [outcome] = compile_plan(SPEC, make_context({"gpu_memory_fraction": 0.9})).outcomes
    assert outcome.outcome == "approximated"
    assert "free after the weights" in outcome.why
    both = compile_plan(SPEC, make_context({"gpu_memory_fraction": 0.5, "kv_cache_dtype": "fp8"}))
    assert "free_gpu_memory_fraction: 0.5" in both.files["llm_options.yaml"]  # the file's object hides the flag's


def test_quirk_no_auth() -> None:
    for mode in ("managed", "docker"):
        with pytest.raises(ConfigError, match="no authentication"):
            SPEC.check(make_context(mode=mode, api_key="secret"))
    SPEC.check(make_context(mode="external", url="http://127.0.0.1:1", api_key="of-the-proxy-before-it"))


def test_quirk_no_preemption(stats_file: str) -> None:
    async def main() -> None:
        async with serving("--extra_llm_api_options", stats_file) as simulator, attached(simulator) as backend:
            await answer(backend, ask())
            assert (await backend.stats()).preemptions_total is None  # not published; there are none by design

    run(main())


# ---------------------------------------------------------------- requests


def test_quirk_forbid_extra() -> None:
    full = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "logit_bias": {5: 1.0}, "stop": ("x",),
        "include_stop_str_in_output": True, "stop_token_ids": (9,), "ignore_eos": True, "min_tokens": 2, "seed": 3,
        "skip_special_tokens": False,
    }  # fmt: skip
    for prompt in (Text("a"), TokenIds((5,)), CHAT):
        path = "/v1/chat/completions" if isinstance(prompt, Chat) else "/v1/completions"
        assert body_of(ask(prompt, **full)).keys() <= fields_of_contract(path)

    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            for prompt in (Text("a"), TokenIds((5, 6)), CHAT):
                assert (await answer(backend, ask(prompt, **full)))[-1].usage is not None
            unknown = {"model": "m", "prompt": "a", "return_token_ids": True}
            status, body = await post(simulator, "/v1/completions", unknown)
            assert status == 400
            assert b"return_token_ids" in body

    run(main())


def test_quirk_include_usage_default() -> None:
    body = body_of(ask())
    assert body["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }  # nothing left to a default


def test_quirk_model_unchecked() -> None:
    async def main() -> None:
        async with serving("some/model") as simulator:
            status, _ = await post(simulator, "/v1/completions", {"model": "anything", "prompt": "a", "max_tokens": 1})
            assert status == 200
            with pytest.raises(StartFailed, match="it serves 'some/model'"):
                async with attached(simulator):
                    pass

    run(main())


def test_quirk_http_default_samples() -> None:
    assert {"temperature", "top_p", "top_k", "max_tokens"} <= body_of(ask()).keys()
    assert {"temperature", "top_p", "top_k"} <= sampling_keywords(ask(), drawn_seed=1).keys()


def test_quirk_llm_max_tokens() -> None:
    assert body_of(ask(max_tokens=9))["max_tokens"] == 9
    assert sampling_keywords(ask(max_tokens=900), drawn_seed=1)["max_tokens"] == 900


def test_quirk_greedy_rule() -> None:
    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            greedy = {text_of(await answer(backend, ask(temperature=0.0))) for _ in range(3)}
            drawn = {text_of(await answer(backend, ask(temperature=1.0))) for _ in range(3)}
            assert len(greedy) == 1
            assert len(drawn) == 3

    run(main())


def test_quirk_seed_fixed() -> None:
    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            plain = {"model": "m", "prompt": "the quick", "max_tokens": 8}
            bodies = [msgspec.json.decode((await post(simulator, "/v1/completions", plain))[1]) for _ in range(2)]
            assert bodies[0]["choices"] == bodies[1]["choices"]  # what a client without a seed gets
            assert text_of(await answer(backend, ask())) != text_of(await answer(backend, ask()))
            assert text_of(await answer(backend, ask(seed=4))) == text_of(await answer(backend, ask(seed=4)))

    run(main())
    assert body_of(ask(seed=-1))["seed"] == 2**64 - 1  # the engine's seeds have no sign
    assert body_of(ask())["seed"] == 77
    assert sampling_keywords(ask(), drawn_seed=5)["seed"] == 5


def test_quirk_ignore_eos() -> None:
    body = body_of(ask(ignore_eos=True, min_tokens=3, stop_token_ids=(7,)))
    assert (body["ignore_eos"], body["min_tokens"], body["stop_token_ids"]) == (True, 3, [7])
    capabilities = SPEC.capabilities(None, make_context().options)
    assert {Feature.IGNORE_EOS, Feature.MIN_TOKENS, Feature.STOP_TOKEN_IDS} <= capabilities.features


def test_quirk_token_ids() -> None:
    assert "return_token_ids" not in body_of(ask())
    assert body_of(ask(), token_ids_only=True)["detokenize"] is False

    async def main() -> None:
        async with serving() as simulator, attached(simulator, token_ids_only=True) as backend:
            chunks = await answer(backend, ask())
            assert text_of(chunks) == ""
            assert sum(len(chunk.token_ids or ()) for chunk in chunks) == 8
            with pytest.raises(UnsupportedFeature):
                backend.generate(ask(CHAT))

    run(main())


def test_quirk_completion_logprobs() -> None:
    options = make_context().options
    assert Feature.LOGPROBS not in SPEC.capabilities("1.2.1", options)
    assert Feature.LOGPROBS not in SPEC.capabilities("1.3.0", options)
    assert Feature.LOGPROBS in SPEC.capabilities("1.4.0rc1", options)


def test_quirk_bos() -> None:
    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            with_bos = await answer(backend, ask(Text("the quick")))
            without = await answer(backend, ask(Text("the quick", add_special_tokens=False)))
            assert with_bos[-1].usage is not None
            assert without[-1].usage is not None
            assert with_bos[-1].usage.num_prompt_tokens == without[-1].usage.num_prompt_tokens + 1

    run(main())
    assert body_of(ask())["add_special_tokens"] is True  # said in both forms, whose defaults differ
    assert body_of(ask(CHAT))["add_special_tokens"] is False
