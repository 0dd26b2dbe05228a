"""`enginebay bench` as a process, against a scripted server over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from enginebay.cli.bench.flags import LoadFlags
from enginebay.cli.bench.planning import overridden_settings
from enginebay.config.bench import BenchConfig
from enginebay.loadtest.from_config import loads_from_config
from enginebay.loadtest.plan import Load, load_plan
from enginebay.loadtest.records import read_records
from enginebay.loadtest.result import load_result
from enginebay.testing.scripted_server import ScriptedServer
from enginebay.testing.server_script import Fault, Script


@pytest.fixture
def model_dir(tmp_path) -> Path:
    """A model that has a tokenizer and nothing to compute with: every character is a token."""
    folder = tmp_path / "model"
    folder.mkdir()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def write_config(folder: Path, model_dir: Path, **urls: str) -> Path:
    entries = "\n".join(f"  {name}: {{kind: openai_http, url: '{url}'}}" for name, url in urls.items())
    config = folder / "bench.yaml"
    config.write_text(
        f"version: 1\nmodel: {model_dir}\nbackend: {next(iter(urls))}\nbackends:\n{entries}\n"
        "bench: {num_requests: 6, users: [2], input_tokens: {min: 30, max: 60}, output_tokens: {min: 4, max: 8}, "
        "warmup_requests: 1}\n"
    )
    return config


async def run_bench(
    *arguments: object, meanwhile: Callable[[asyncio.subprocess.Process], Awaitable[None]] | None = None
):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enginebay.cli", "bench", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if meanwhile is not None:
            await meanwhile(process)
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


def test_two_backends_get_one_plan_and_all_files_are_written(tmp_path, model_dir) -> None:
    async def main():
        script = Script(token_gap_s=0.002)
        async with (
            ScriptedServer(script, model=str(model_dir)) as one,
            ScriptedServer(script, model=str(model_dir)) as two,
        ):
            config = write_config(tmp_path, model_dir, one=one.url, two=two.url)
            outcome = await run_bench(config, "--backend", "one", "--backend", "two", "--out", tmp_path / "out")
            return outcome, [request.body for request in one.generations], [request.body for request in two.generations]

    (code, out, err), to_one, to_two = asyncio.run(main())
    assert err == ""
    assert "Output tokens per second" in out
    assert "SIMULATED" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"plan.json", "result.json", "records.jsonl", "timeseries.jsonl", "report.md", "report.html"}
    assert "verdict.json" in names
    result = load_result(tmp_path / "out")
    assert [(run.label, run.transport, run.simulated) for run in result.runs] == [
        ("one", "http", True),
        ("two", "http", True),
    ]
    assert all(run.metrics.num_requests == 6 and run.metrics.num_errors == 0 for run in result.runs)
    assert code == (0 if all(run.valid for run in result.runs) else 3)
    assert len(to_one) == len(to_two) == 7
    assert sorted(json.loads(body)["prompt"] for body in to_one) == sorted(
        json.loads(body)["prompt"] for body in to_two
    )
    assert result.plan_sha256 == load_plan(tmp_path / "out" / "plan.json").sha256


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_measured_marks_it_partial_and_reports_it(
    tmp_path, model_dir, number, exit_code
) -> None:
    async def main():
        fifth_came = asyncio.Event()

        def script(request) -> Script:
            # The warm-up, two whole answers, and the next two begun.
            if server.num_generations == 5:
                fifth_came.set()
            return Script(token_gap_s=0.05)

        async def interrupt(process) -> None:
            await fifth_came.wait()
            process.send_signal(number)

        async with ScriptedServer(script, model=str(model_dir)) as server:
            config = write_config(tmp_path, model_dir, one=server.url)
            return await run_bench(config, "--out", tmp_path / "out", meanwhile=interrupt)

    code, out, err = asyncio.run(main())
    assert (code, err) == (exit_code, "")
    result = load_result(tmp_path / "out")
    [run] = result.runs
    assert (result.status, run.status, run.valid) == ("partial", "partial", False)
    assert 2 <= run.metrics.num_requests < 6
    assert run.metrics.num_unfinished == 2
    assert "stopped before its end" in out
    assert (tmp_path / "out" / "report.html").exists()
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == run.metrics.num_requests + 2


def test_errors_in_mid_run_are_counted_and_the_exit_code_tells_of_an_invalid_run(tmp_path, model_dir) -> None:
    async def main():
        def script(request) -> Script:
            return Script(fault=Fault.CUT, fault_after_tokens=2) if server.num_generations == 4 else Script()

        async with ScriptedServer(script, model=str(model_dir)) as server:
            config = write_config(tmp_path, model_dir, one=server.url)
            return await run_bench(config, "--out", tmp_path / "out")

    code, out, err = asyncio.run(main())
    assert err == ""
    [run] = load_result(tmp_path / "out").runs
    assert (run.metrics.num_requests, run.metrics.num_errors) == (6, 1)
    assert "errors" in {reason.code for reason in run.invalid_reasons}
    assert code == 3
    assert "INVALID" in out


def test_a_backend_that_cannot_be_reached_is_an_error_without_a_traceback(tmp_path, model_dir) -> None:
    config = write_config(tmp_path, model_dir, one="http://127.0.0.1:9")
    config.write_text(
        config.read_text().replace(
            "url: 'http://127.0.0.1:9'", "url: 'http://127.0.0.1:9', options: {start_timeout_s: 0.2}"
        )
    )
    (tmp_path / "out").mkdir()
    for name in ("report.md", "report.html"):
        (tmp_path / "out" / name).write_text("of another load test")
    code, out, err = asyncio.run(run_bench(config, "--out", tmp_path / "out"))
    assert code == 1
    assert "127.0.0.1:9" in err
    assert "Traceback" not in err
    assert "one did not start (StartFailed)" in out
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "of another load test" not in text
        assert "Nothing was measured." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users", "2", "--rate", "3"], "--users and --rate cannot be combined"),
        (["--users", "2", "--arrivals", "poisson"], "--users and --arrivals or --burstiness cannot be combined"),
        (["--rate", "2", "--arrivals", "gamma"], "burstiness"),
        (["--rate", "2", "--arrivals", "constant", "--burstiness", "2"], "burstiness"),
        (["--rate", "2", "--burstiness", "0"], "burstiness: found the number 0"),
        (["--backend", "one", "--backend", "one"], "--backend one is given twice"),
        (["--requests", "0"], "bench.num_requests: found the number 0; expected a number of at least 1"),
        (["--seed", "-1"], "bench.seed: found the number -1; expected a number of at least 0"),
        (["--users", "0"], "bench.users[0]: found the number 0; expected a number of at least 1"),
        (["--backend", "three"], "'three' is neither an entry"),
    ],
)
def test_usage_errors_are_told_before_anything_starts(tmp_path, model_dir, arguments, message) -> None:
    config = write_config(tmp_path, model_dir, one="http://127.0.0.1:9")
    code, _, err = asyncio.run(run_bench(config, *arguments, "--out", tmp_path / "out"))
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_bursts_can_be_asked_for_without_a_config_and_those_of_a_config_at_other_rates() -> None:
    bursty = overridden_settings(BenchConfig(), LoadFlags(rate=[2.0], burstiness=0.5).given)
    assert loads_from_config(bursty) == (Load(rate=2.0, arrivals="gamma", burstiness=0.5),)
    at_others = overridden_settings(bursty, LoadFlags(rate=[4.0], arrivals="gamma").given)
    assert loads_from_config(at_others) == (Load(rate=4.0, arrivals="gamma", burstiness=0.5),)


@pytest.mark.parametrize(
    "option", ["engine: {tokenizer: MODEL}, model: theirs", "options: {served_model_name: theirs}"]
)
def test_a_server_is_measured_under_the_name_that_it_gives_its_model(tmp_path, model_dir, option) -> None:
    async def main():
        async with ScriptedServer(Script(), model="theirs") as server:
            config = write_config(tmp_path, model_dir, one=server.url)
            entry = option.replace("MODEL", str(model_dir))
            config.write_text(config.read_text().replace("kind: openai_http", f"kind: openai_http, {entry}"))
            outcome = await run_bench(config, "--out", tmp_path / "out")
            return outcome, [json.loads(request.body)["model"] for request in server.generations]

    (code, _, err), models = asyncio.run(main())
    assert (code in (0, 3), err) == (True, "")
    assert models == ["theirs"] * 7


def test_a_served_name_that_is_no_model_here_is_told_with_what_to_do(tmp_path, model_dir) -> None:
    config = write_config(tmp_path, model_dir, one="http://127.0.0.1:9")
    config.write_text(config.read_text().replace(f"model: {model_dir}", "model: theirs"))
    code, _, err = asyncio.run(run_bench(config, "--out", tmp_path / "out"))
    assert code == 2
    assert "no model is called 'theirs'" in err
    assert "engine.tokenizer" in err
    assert "options.served_model_name" in err
