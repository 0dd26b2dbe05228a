"""Every quirk of the contract: handled by the adapter, or harmless to it. One test each, found by its name.

Most ask the simulated TGI, which has the quirk, first directly and then through the adapter.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from tgi_asking import CHAT, LIMITS, TEXT, body_of, collect, last, parameters_of, post, refused, request, with_tgi
from tgi_contract import context, contract, quirk_ids

from enginebay import get_backend
from enginebay.backend import Mode
from enginebay.errors import BackendOverloaded, ContextTooLong, InvalidRequest, StartFailed, UnsupportedFeature
from enginebay.guard import GuardedBackend
from enginebay.plugins import compile_plan, find_backend
from enginebay.testing.simulators import Fault, Simulator
from enginebay.testing.simulators.wires.tgi.requests import Parameters
from enginebay.testing.simulators.wires.tgi.validation import validate
from enginebay.types import (
    Chat,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Text,
)
from enginebay.wire.http_client import HttpClient
from enginebay_tgi.identify import RELEASES
from enginebay_tgi.request_body import encode_request, path_of


def test_every_quirk_of_the_contract_has_its_test_and_every_test_its_quirk() -> None:
    module = vars(sys.modules[__name__])
    tested = {name.removeprefix("test_quirk_") for name in module if name.startswith("test_quirk_")}
    assert tested == quirk_ids()


# ---------------------------------------------------------------- sampling


def test_quirk_temperature_zero() -> None:
    assert refused(temperature=0.0)
    assert "temperature" not in parameters_of(request(temperature=0.0))


def test_quirk_greedy_native() -> None:
    """Parameters always stand there, and do_sample in them."""
    assert parameters_of(request(temperature=0.0))["do_sample"] is False
    assert parameters_of(request(temperature=1.0))["do_sample"] is True


def test_quirk_implicit_sampling() -> None:
    greedy = parameters_of(request(temperature=0.0, top_k=5, top_p=0.9))
    assert not {"temperature", "top_k", "top_p", "typical_p"} & set(greedy)

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        greedy_text = (await last(backend, request(temperature=0.0))).text
        assert (await last(backend, request(temperature=0.0, top_k=5, top_p=0.9, seed=4))).text == greedy_text
        switched = {"inputs": TEXT.text, "parameters": {"do_sample": False, "top_k": 5, "max_new_tokens": 8, "seed": 4}}
        assert json.loads((await post(http, "/generate", switched))[1])["generated_text"] != greedy_text

    with_tgi(use)


def test_quirk_openai_default_samples() -> None:
    assert body_of(request(CHAT))["temperature"] == 1.0
    assert body_of(request(CHAT, temperature=0.0))["temperature"] == 0.0


def test_quirk_top_p_one() -> None:
    assert refused(top_p=1.0)
    assert "top_p" not in parameters_of(request(top_p=1.0))
    assert "top_p" not in body_of(request(CHAT, top_p=1.0))
    assert parameters_of(request(top_p=0.9))["top_p"] == 0.9
    assert body_of(request(CHAT, top_p=0.9))["top_p"] == 0.9


def test_quirk_top_k_zero() -> None:
    assert refused(top_k=0)
    assert "top_k" not in parameters_of(request(top_k=0))
    assert parameters_of(request(top_k=3))["top_k"] == 3


@pytest.mark.parametrize(
    "field",
    [{"ignore_eos": True}, {"min_tokens": 2}, {"stop_token_ids": (3,)}, {"min_p": 0.1}, {"logit_bias": {1: 1.0}}],
)
@pytest.mark.parametrize("prompt", [TEXT, CHAT])
def test_quirk_no_ignore_eos(field: dict[str, Any], prompt: Text | Chat) -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            backend.generate(request(prompt, **field))
        assert caught.value.field == next(iter(field))
        ignored = {"inputs": "hi", "parameters": {"max_new_tokens": 2, "ignore_eos": True, "min_new_tokens": 9}}
        assert (await post(http, "/generate", ignored))[0] == 200

    with_tgi(use)


def test_quirk_naming() -> None:
    assert parameters_of(request())["max_new_tokens"] == 8
    assert "max_tokens" not in parameters_of(request())
    assert body_of(request(CHAT))["max_tokens"] == 8


def test_quirk_default_length() -> None:
    """A request without a limit runs to the end of the context: ours always has one."""
    valid = validate("hi", Parameters(), LIMITS, is_streamed=False, adds_special_tokens=True)
    assert valid.max_new_tokens == LIMITS.max_total_tokens - len(valid.prompt_token_ids)
    assert parameters_of(request(max_tokens=1))["max_new_tokens"] == 1


def test_quirk_requeue_1024() -> None:
    """Slices of a long answer are TGI's own business: the counts of the last event span them."""

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        end = await last(backend, request(temperature=0.0, max_tokens=1500))
        assert end.usage is not None
        chunks = await collect(backend, request(temperature=0.0, max_tokens=1500))
        assert sum(chunk.num_tokens or 0 for chunk in chunks) == end.usage.num_output_tokens

    with_tgi(use)


def test_quirk_presence_penalty() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        for prompt in (TEXT, CHAT):
            with pytest.raises(UnsupportedFeature, match="presence_penalty"):
                backend.generate(request(prompt, presence_penalty=0.5))

    with_tgi(use)
    assert "presence_penalty" not in body_of(request(CHAT))


def test_quirk_seed_random() -> None:
    """A seed is sent as it is, a negative one as its two's complement: TGI's are unsigned."""
    assert parameters_of(request(seed=7))["seed"] == 7
    assert parameters_of(request(seed=-1))["seed"] == 2**64 - 1
    assert "seed" not in parameters_of(request())

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        texts = [(await last(backend, request(seed=7))).text for _ in range(2)]
        assert texts[0] == texts[1]
        assert (await last(backend, request())).text != (await last(backend, request())).text
        greedy = {"inputs": "hi", "parameters": {"max_new_tokens": 1, "details": True, "seed": 3}}
        assert json.loads((await post(http, "/generate", greedy))[1])["details"]["seed"] is None

    with_tgi(use)


# ---------------------------------------------------------------- stops


def test_quirk_stop_limit() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        assert backend.info.capabilities.max_stop_strings == 2  # the server's own limit, told by /info
        with pytest.raises(InvalidRequest, match="at most 2"):
            backend.generate(request(stop=("a", "b", "c")))
        assert (await post(http, "/generate", {"inputs": "hi", "parameters": {"stop": ["a", "b", "c"]}}))[0] == 422
        assert (await post(http, "/v1/completions", {"prompt": "hi", "stop": "a"}))[0] == 422

    with_tgi(use, "--max-stop-sequences", "2")


@pytest.mark.parametrize("prompt", [TEXT, CHAT])
def test_quirk_stop_kept(prompt: Text | Chat) -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        whole = "".join(chunk.text for chunk in await collect(backend, request(prompt, temperature=0.0)))
        stop = whole.split()[2]
        parts = await collect(backend, request(prompt, temperature=0.0, stop=(stop,)))
        assert "".join(chunk.text for chunk in parts) == whole[: whole.index(stop)]
        assert (parts[-1].finish_reason, parts[-1].stop_reason) == (FinishReason.STOP, stop)
        kept = await collect(backend, request(prompt, temperature=0.0, stop=(stop,), include_stop_str_in_output=True))
        assert "".join(chunk.text for chunk in kept) == whole[: whole.index(stop) + len(stop)]
        raw = {"inputs": TEXT.text, "parameters": {"stop": [" "], "max_new_tokens": 8}}
        assert "details" not in json.loads((await post(http, "/generate", raw))[1])

    with_tgi(use)


def test_quirk_stop_match() -> None:
    """TGI overlooks a stop string inside a token, and goes on; the text ends there all the same."""

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        whole = "".join(chunk.text for chunk in await collect(backend, request(temperature=0.0)))
        word = next(word for word in whole.split() if len(word) > 3 and word.isalpha())
        inside = word[1:-1]
        parts = await collect(backend, request(temperature=0.0, stop=(inside,)))
        assert "".join(chunk.text for chunk in parts) == whole[: whole.index(inside)]
        usage = parts[-1].usage
        assert usage is not None
        assert usage.num_output_tokens + usage.num_discarded_tokens == 8
        assert usage.num_discarded_tokens > 0

    with_tgi(use)


def test_quirk_finish_names() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        for prompt in (TEXT, CHAT):
            ended = await last(backend, request(prompt, temperature=0.0, max_tokens=2000))
            assert (ended.finish_reason, ended.stop_reason) == (FinishReason.STOP, None)
            assert (await last(backend, request(prompt))).finish_reason is FinishReason.LENGTH
        asked = {"prompt": "hi", "max_tokens": 2000, "temperature": 0}
        whole = json.loads((await post(http, "/v1/completions", asked))[1])
        assert whole["choices"][0]["finish_reason"] == "stop"
        _, streamed = await post(http, "/v1/completions", {**asked, "stream": True})
        assert '"finish_reason":"eos_token"' in streamed

    with_tgi(use)


def test_quirk_eos_token_counted() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        chunks = await collect(backend, request(temperature=0.0, max_tokens=2000))
        ids = [token_id for chunk in chunks for token_id in chunk.token_ids or ()]
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.num_output_tokens == len(ids)
        assert ids[-1] == 2
        assert "</s>" not in "".join(chunk.text for chunk in chunks)

    with_tgi(use)


# ---------------------------------------------------------------- routes


def test_quirk_empty_finish_reason() -> None:
    """Streamed completions say "" where others say null: the adapter has no use for that route."""
    assert path_of(request()) == "/generate_stream"
    assert path_of(request(CHAT)) == "/v1/chat/completions"

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        _, streamed = await post(http, "/v1/completions", {"prompt": "hi", "max_tokens": 3, "stream": True})
        assert streamed.count('"finish_reason":""') == 2
        messages = [{"role": "user", "content": "hi"}]
        asked = {"messages": messages, "max_tokens": 3, "stream": True}
        _, chat = await post(http, "/v1/chat/completions", asked)
        assert chat.count('"finish_reason":null') == 2

    with_tgi(use)


def test_quirk_stream_errors_200() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        for prompt in (TEXT, CHAT):
            with pytest.raises(ContextTooLong) as caught:
                await collect(backend, request(prompt, max_tokens=60))
            assert caught.value.limit == 64
            assert "60 output tokens" in str(caught.value)
        status, answer = await post(http, "/generate_stream", {"inputs": "hi", "parameters": {"top_p": 1.0}})
        assert (status, answer[:7]) == (200, "data: {")
        assert '"error_type":"validation"' in answer

    with_tgi(use, "--max-total-tokens", "64")


def test_quirk_hard_admission() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        asked = [collect(backend, request(max_tokens=900, temperature=0.0)) for _ in range(4)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        overloads = [answer for answer in answers if isinstance(answer, BackendOverloaded)]
        assert 1 <= len(overloads) < 4
        simulator.faults.inject(Fault.OVERLOAD)
        assert (await post(http, "/generate", {"inputs": "hi"}))[0] == 429
        for prompt in (TEXT, CHAT):
            with pytest.raises(BackendOverloaded):
                await collect(backend, request(prompt))

    with_tgi(use, "--max-concurrent-requests", "2")


def test_quirk_completions_prefill() -> None:
    """They bypass the prefix cache; our /generate does so only where the prompt's log-probabilities are asked for."""
    assert "decoder_input_details" not in parameters_of(request())
    asked = GenerationRequest(request_id="r", prompt=TEXT, sampling=SamplingParams(max_tokens=2), prompt_logprobs=0)
    assert parameters_of(asked)["decoder_input_details"] is True
    assert path_of(asked) == "/generate"

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        chunk = await last(backend, asked)
        assert chunk.prompt is not None
        assert chunk.prompt.token_ids == await backend.count_tokens(TEXT)
        assert chunk.prompt.logprobs is not None
        assert chunk.prompt.logprobs[0] is None
        assert all(position is not None for position in chunk.prompt.logprobs[1:])
        assert chunk.usage is not None
        assert chunk.usage.num_prompt_tokens == len(chunk.prompt.token_ids)

    with_tgi(use, "--enable-prefill-logprobs", enable_prefill_logprobs=True)


def test_quirk_model_is_adapter() -> None:
    """Another name than `tgi` is taken for a LoRA adapter, and an unknown one for the base model."""
    assert body_of(request(CHAT))["model"] == "tgi"

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        asked = GenerationRequest(request_id="r", prompt=TEXT, sampling=SamplingParams(max_tokens=2), adapter="x")
        with pytest.raises(UnsupportedFeature, match="adapter"):
            backend.generate(asked)

    with_tgi(use)


def test_quirk_empty_id() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        assert json.loads((await post(http, "/v1/completions", {"prompt": "hi", "max_tokens": 1}))[1])["id"] == ""
        assert (await last(backend, request(CHAT))).finish_reason is FinishReason.LENGTH

    with_tgi(use)


def test_quirk_double_count() -> None:
    """So requests are counted by their ends: tgi_request_count is kept for what it is, beside the others."""

    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        await last(backend, request())
        await last(backend, request(CHAT))
        stats = await backend.stats()
        assert (stats.extra["tgi_request_count"], stats.extra["tgi_request_success"]) == (3, 2)
        assert stats.e2e_seconds is not None
        assert stats.e2e_seconds.count == 2

    with_tgi(use)


def test_quirk_bos() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        assert (await backend.count_tokens(Text("the")))[0] == 1
        assert (await backend.count_tokens(CHAT))[0] != 1
        for prompt in (TEXT, CHAT):
            usage = (await last(backend, request(prompt))).usage
            assert usage is not None
            assert usage.num_prompt_tokens == len(await backend.count_tokens(prompt))
        with pytest.raises(UnsupportedFeature, match="add_special_tokens"):
            backend.generate(request(Text("the", add_special_tokens=False)))
        with pytest.raises(UnsupportedFeature, match="add_special_tokens"):
            backend.generate(request(Chat(CHAT.messages, add_special_tokens=True)))

    with_tgi(use)


def test_a_bos_of_a_tokenizer_without_one_is_no_reason_to_refuse() -> None:
    asked = request(Text("the", add_special_tokens=False))
    assert json.loads(encode_request(asked, backend="tgi", adds_special_tokens=False))["inputs"] == "the"


# ---------------------------------------------------------------- launch


@pytest.mark.parametrize("mode", ["managed", "docker"])
def test_quirk_short_flags(mode: Mode) -> None:
    plan = compile_plan(find_backend("tgi"), context(mode=mode, port=8080, settings={"max_num_seqs": 4}))
    own = plan.command[plan.command.index("--model-id") :]
    assert not [word for word in own if word.startswith("-") and not word.startswith("--")]


def test_quirk_prometheus_port() -> None:
    """Nobody reads that port, but a busy one ends the router: two servers on a machine need two."""
    plan = compile_plan(find_backend("tgi"), context(mode="managed", port=8080, prometheus_port=9100))
    assert plan.command[plan.command.index("--prometheus-port") + 1] == "9100"
    plan = compile_plan(find_backend("tgi"), context(mode="docker", port=8080))
    assert "--prometheus-port" not in plan.command  # alone in its container


def test_quirk_version_string() -> None:
    async def use(backend: GuardedBackend, http: HttpClient, simulator: Simulator) -> None:
        told = contract()["source"]["self_reported_version"]
        assert backend.info.effective_settings["reported_version"] == told == "3.3.6-dev0"
        assert backend.info.engine_version == contract()["version"] == "3.3.7", "by the commit of the release"

    with_tgi(use)
    assert RELEASES[contract()["source"]["commit"]] == contract()["version"]


def test_quirk_auth_gap() -> None:
    """/info is open to everybody: the start asks a guarded route too, so that a wrong key is told at once."""

    async def main() -> None:
        async with Simulator("tgi", ["--model-id", "m", "--api-key", "right"]) as simulator:
            for key in (None, "wrong"):
                backend = get_backend("tgi", mode="external", url=simulator.url, model="m", options={"api_key": key})
                with pytest.raises(StartFailed, match=r"options\.api_key"):
                    await backend.start()
            options = {"api_key": "RIGHT"}  # TGI compares without regard to case
            async with get_backend("tgi", mode="external", url=simulator.url, model="m", options=options) as backend:
                assert (await last(backend, request())).finish_reason is FinishReason.LENGTH

    asyncio.run(main())
