"""`enginebay bench --url`, against simulated engines and a scripted server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from enginebay.cli.bench.servers import (
    Probed,
    Server,
    _count,
    _introduction,
    _names,
    counting_of,
    default_folder,
)
from enginebay.cli.main import run
from enginebay.config.bench_lengths import TokenRange
from enginebay.config.loader import load_config
from enginebay.errors import UpstreamError
from enginebay.loadtest.plan import load_plan
from enginebay.loadtest.records import read_records
from enginebay.loadtest.result import load_result
from enginebay.loadtest.schedule import Speed
from enginebay.probes.recognising import RecognisedServer
from enginebay.recognition import MODELS_PATH, Answer, ListedModel, listed_models
from enginebay.testing.simulators.performance import INSTANT
from enginebay.testing.simulators.thread import SimulatorThread
from enginebay.types import Feature
from enginebay.verdict.certificate.certificate import load_certificate
from enginebay.verdict.certificate.certify import verify
from enginebay.verdict.verdict import load_verdict

SMALL = ("--requests", 16, "--users", 2)


@pytest.fixture
def bench(capsys) -> Callable[..., tuple[int, str, str]]:
    """In this process: what it costs to start one is no news."""

    def called(*arguments: object) -> tuple[int, str, str]:
        code = run(["bench", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return called


def test_one_server_gives_figures_and_a_config_to_go_on_with(bench, tmp_path) -> None:
    out = tmp_path / "out"
    with closing(SimulatorThread("vllm", profile=INSTANT)) as engine:
        code, printed, err = bench("--url", f"{engine.url}/v1", "--out", out, *SMALL)
        again, _, _ = bench(out / "bench.yaml", "--out", tmp_path / "again", "--seed", 7, *SMALL)
    assert err == ""
    assert "is vllm: its models are owned by 'vllm'" in printed
    assert "SIMULATED" in printed
    assert f"prompts are counted by {engine.url}/tokenize" in printed
    assert load_result(out).prompt_counts == "server"
    assert "Prompts were counted by the server itself" in (out / "report.html").read_text()
    assert "Output tokens per second" in printed
    config = load_config(out / "bench.yaml")
    assert config.backends["vllm"].url == engine.url
    [measured] = load_result(out).runs
    assert (measured.backend, measured.transport, measured.simulated) == ("vllm", "http", True)
    assert measured.metrics.num_errors == 0
    assert "prompt_lengths" not in {reason.code for reason in measured.invalid_reasons}
    assert code == (0 if measured.valid else 3)
    assert again in (0, 3)


def test_prompts_that_the_server_counted_have_exactly_the_planned_number_of_tokens(bench, tmp_path) -> None:
    with closing(SimulatorThread("vllm", profile=INSTANT)) as engine:
        _, _, err = bench("--url", engine.url, "--out", tmp_path, *SMALL)
    assert err == ""
    records = [line.record for line in read_records(tmp_path / "records.jsonl")]
    assert len(records) == 16
    assert [record.num_prompt_tokens for record in records] == [record.num_planned_prompt_tokens for record in records]


def test_where_nobody_counts_the_lengths_are_estimated_and_that_is_said_everywhere(bench, tmp_path) -> None:
    with closing(SimulatorThread("tensorrt_llm", profile=INSTANT)) as engine:
        _, printed, err = bench("--url", engine.url, "--out", tmp_path, *SMALL)
    assert err == ""
    assert "no server that counts as its usage does: lengths of prompts are estimated" in printed
    assert load_result(tmp_path).prompt_counts == "estimated"
    [measured] = load_result(tmp_path).runs
    assert "prompt_lengths" not in {reason.code for reason in measured.invalid_reasons}
    for name in ("report.html", "report.md"):
        assert "Lengths of prompts were estimated" in (tmp_path / name).read_text()


def probed(num_prompt_tokens: int, *, num_counted: int | None = None, num_by_file: int | None = None) -> Probed:
    return Probed(
        speed=Speed(), can_ignore_eos=True, engine_version=None, max_model_len=None,
        num_prompt_tokens=num_prompt_tokens, num_counted=num_counted, num_by_file=num_by_file,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "is_given", "by", "told"),
    [
        ([probed(18, num_counted=18, num_by_file=18)], False, "tokenizer", "/model"),
        ([probed(18, num_counted=18, num_by_file=17)], False, "server", "http://a/tokenize"),
        ([probed(18, num_by_file=17)], True, "tokenizer", "/model"),
        ([probed(18), probed(18, num_counted=18)], False, "server", "http://b/tokenize"),
        ([probed(18, num_counted=18), probed(21, num_counted=21)], False, "estimated", "18 and 21 tokens of one text"),
        ([probed(18, num_counted=19)], False, "estimated", "no server that counts as its usage does"),
        ([probed(18)], False, "estimated", "no tokenizer of the model"),
    ],
)
def test_what_counts_is_what_agrees_with_the_usage_of_every_server(answers, is_given, by, told) -> None:
    servers = [
        Server(
            name=name,
            found=RecognisedServer(url=f"http://{name}", kind="vllm", because="", models=(), simulated=False),
            model=ListedModel(id="m", owned_by=None, root=None),
            tokenizer="/model",
        )
        for name in "ab"[: len(answers)]
    ]
    counting = counting_of(servers, answers, is_tokenizer_given=is_given)
    assert counting.by == by
    assert told in counting.in_words


def test_a_config_may_ask_for_the_servers_count_only_of_a_server_that_runs_and_tells(bench, tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("version: 1\nbackend: reference\nmodel: any\nbench: {prompt_counts: server}\n")
    code, _, err = bench(path, "--out", tmp_path / "out")
    assert (code, "none of reference is a running server that counts tokens" in err) == (2, True), err


def test_two_servers_are_asked_nothing_twice_and_simulators_give_no_verdict(bench, tmp_path) -> None:
    out, junit, picture = tmp_path / "out", tmp_path / "verdict.xml", tmp_path / "result.svg"
    with (
        closing(SimulatorThread("vllm", profile=INSTANT)) as one,
        closing(SimulatorThread("tgi", profile=INSTANT)) as two,
    ):
        arguments = ("--url", one.url, "--url", two.url, "--out", out, *SMALL)
        code, printed, err = bench(*arguments, "--fail-on", "slower", "--junit", junit, "--picture", picture)
        created_at = load_result(out).created_at
        resumed, printed_again, _ = bench(*arguments, "--resume")
    assert err == ""
    verdict = load_verdict(out)
    assert (verdict.subjects, verdict.status) == (("vllm", "tgi"), "simulated")
    assert code == 3
    assert "no verdict (simulated)" in printed
    plan = load_plan(out / "plan.json")
    assert [load.start_index for load in plan.loads] == [0, 1, 2]
    prompts = [request.text for load in plan.loads for request in (*load.warmup, *load.requests)]
    assert len(set(prompts)) == len(prompts)
    assert {(each.label, each.start_index) for each in load_result(out).runs} == {
        (label, start) for label in ("vllm", "tgi") for start in range(3)
    }
    assert junit.read_text().startswith("<?xml")
    assert "<svg" in picture.read_text()
    assert "6 starts are kept" in printed_again
    assert resumed in (0, 3)
    assert created_at


def test_a_key_is_named_by_its_variable_and_stands_nowhere(bench, tmp_path, monkeypatch) -> None:
    out, key = tmp_path / "out", "sk-very-secret"
    with closing(SimulatorThread("vllm", "--api-key", key, profile=INSTANT)) as engine:
        refused = bench("--url", engine.url, "--out", out, *SMALL)
        missing = bench("--url", engine.url, "--out", out, "--api-key-env", "NO_SUCH_KEY", *SMALL)
        monkeypatch.setenv("BENCH_KEY", key)
        code, printed, err = bench("--url", engine.url, "--out", out, "--api-key-env", "BENCH_KEY", *SMALL)
    assert refused[0] == 1
    assert "refuses us (HTTP 401)" in refused[2]
    assert missing[0] == 2
    assert "NO_SUCH_KEY is not set" in missing[2]
    assert (code in (0, 3), err) == (True, "")
    assert "${BENCH_KEY}" in (out / "bench.yaml").read_text()
    assert key not in printed
    assert [path.name for path in out.iterdir() if key in path.read_text(errors="replace")] == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--url", "http://127.0.0.1:9"), 1, "nothing answers at http://127.0.0.1:9"),
        (("--url", "127.0.0.1:9"), 2, "http"),
        (("--url", "http://a", "--url", "http://b", "--url", "http://c"), 2, "one server or two"),
        (("--url", "http://127.0.0.1:9", "--self-check"), 2, "exclude each other"),
        (("--model", "x", "config.yaml"), 2, "go with --url"),
        ((), 2, "there is nothing to measure"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_told_in_a_line(bench, tmp_path, monkeypatch, arguments, code, told) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = bench(*arguments)
    assert (found, told in err) == (code, True), err
    assert "Traceback" not in err


def test_what_is_proposed_fits_into_the_context_of_the_model(bench, tmp_path) -> None:
    with closing(SimulatorThread("vllm", "--max-model-len", "120", profile=INSTANT)) as engine:
        code, _, err = bench("--url", engine.url, "--out", tmp_path, *SMALL)
    assert (code in (0, 3), err) == (True, "")
    config = load_config(tmp_path / "bench.yaml").bench
    assert config.output_tokens == TokenRange(min=30, max=30)
    assert isinstance(config.input_tokens, TokenRange)
    assert config.input_tokens.max < 90, "what 30 tokens of output leave, and less, since lengths are estimated"
    [measured] = load_result(tmp_path).runs
    assert measured.metrics.num_errors == 0


def test_going_on_with_other_servers_than_before_is_refused(bench, tmp_path) -> None:
    with closing(SimulatorThread("vllm", profile=INSTANT)) as engine:
        bench("--url", engine.url, "--out", tmp_path, *SMALL)
        code, _, err = bench("--url", "http://127.0.0.1:9", "--out", tmp_path, "--resume", *SMALL)
    assert (code, "is about other servers" in err) == (2, True), err


def test_a_server_of_this_project_is_named_by_the_engine_behind_it() -> None:
    card = {"id": "m", "owned_by": "enginebay", "kind": "reference"}
    body = json.dumps({"data": [card]}).encode()
    models = listed_models({MODELS_PATH: Answer(status=200, headers={}, body=body)})
    assert models is not None
    found = RecognisedServer(url="http://a", kind="openai_http", because="owner", models=models, simulated=False)
    server = Server(name="reference", found=found, model=models[0], tokenizer=None)
    assert server.engine == "reference"
    assert "is [bold]reference[/] behind `enginebay serve`" in _introduction(server)
    assert _names(["reference", "reference"]) == ["reference-a", "reference-b"]


@pytest.mark.parametrize(
    "card", [{"owned_by": "somebody", "kind": "reference"}, {"owned_by": "enginebay", "kind": "a: b"},
             {"owned_by": "enginebay", "kind": 3}],
)  # fmt: skip
def test_what_others_mean_by_a_kind_is_not_taken_for_one(card) -> None:
    body = json.dumps({"data": [{"id": "m", **card}]}).encode()
    [model] = listed_models({MODELS_PATH: Answer(status=200, headers={}, body=body)}) or ()
    assert model.kind is None


def test_the_folder_is_named_by_the_servers() -> None:
    assert default_folder(["http://host:8000/v1", "http://other:80"]) == Path("out/host-8000-against-other-80")


def test_a_server_with_several_models_asks_for_one(bench, tmp_path) -> None:
    names = ("--served-model-name", "first", "second")
    with closing(SimulatorThread("vllm", *names, profile=INSTANT)) as engine:
        code, _, err = bench("--url", engine.url, "--out", tmp_path, *SMALL)
        chosen, _, _ = bench("--url", engine.url, "--out", tmp_path, "--model", "second", *SMALL)
    assert code == 2
    assert "first or second" in err
    assert chosen in (0, 3)
    assert json.loads((tmp_path / "result.json").read_text())["model"] == "second"


def test_what_is_proposed_is_told_with_its_time_before_it_begins(bench, tmp_path) -> None:
    with closing(SimulatorThread("vllm", profile=INSTANT)) as engine:
        _, printed, err = bench("--url", engine.url, "--out", tmp_path, *SMALL)
    assert err == ""
    assert "proposed: 160 requests by 1 user and by 8 users, about " in printed
    assert "there are 2 min for it (--minutes)" in printed
    assert printed.index("proposed:") < printed.index("this takes about") < printed.index("[1/1]")
    assert re.search(r"this takes about \d s more \(a guess", printed), "by what the server was seen to do"
    assert load_config(tmp_path / "bench.yaml").bench.num_requests == 160


def test_more_rounds_of_a_running_server_are_added_to_those_that_are_there(bench, tmp_path) -> None:
    with closing(SimulatorThread("vllm", profile=INSTANT)) as engine:
        arguments = ("--url", engine.url, "--out", tmp_path, *SMALL)
        bench(*arguments)
        [first] = load_result(tmp_path).runs
        code, printed, err = bench(*arguments, "--resume", "--starts", 3)
        fewer = bench(*arguments, "--resume", "--starts", 2)
    assert (code in (0, 3), err) == (True, "")
    assert "1 starts are kept" in printed
    runs = load_result(tmp_path).runs
    assert [run.start_index for run in runs] == [0, 1, 2]
    assert runs[0] == first
    assert verify(load_certificate(tmp_path), tmp_path) == []
    prompts = [request.text for load in load_plan(tmp_path / "plan.json").loads for request in load.requests]
    assert len(set(prompts)) == len(prompts) == 48
    assert (fewer[0], "no fewer starts" in fewer[2]) == (3, True)


def test_a_server_behind_a_proxy_that_hides_its_tokenizer_is_measured_all_the_same() -> None:
    class Hidden:
        info = SimpleNamespace(capabilities={Feature.COUNT_TOKENS})

        async def count_tokens(self, prompt: object) -> tuple[int, ...]:
            raise UpstreamError("HTTP 404", status=404)

    assert asyncio.run(_count(Hidden())) is None  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("others", [(), ("two",)], ids=["alone", "beside one that can"])
def test_a_server_that_cannot_count_chats_is_named_by_what_it_cannot_do(bench, tmp_path, others) -> None:
    path = tmp_path / "config.yaml"
    with (
        closing(SimulatorThread("sglang", profile=INSTANT)) as one,
        closing(SimulatorThread("vllm", profile=INSTANT)) as two,
    ):
        path.write_text(
            "version: 1\nmodel: simulated\nbackend: one\nbackends:\n"
            f'  one: {{kind: sglang, mode: external, url: "{one.url}"}}\n'
            f'  two: {{kind: vllm, mode: external, url: "{two.url}"}}\n'
            "bench: {prompt_counts: server, prompt_form: chat, num_requests: 4}\n"
        )
        names = [flag for name in ("one", *others) for flag in ("--backend", name)]
        code, _, err = bench(path, *names, "--out", tmp_path / "out")
    assert (code, "cannot count prompts in the form of a chat" in err) == (2, True), err
