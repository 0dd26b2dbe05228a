from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from enginebay.cli.main import run
from enginebay.testing.simulators import Fault, simulated_kinds
from enginebay.testing.simulators.engine import SimulatedEngine

PAGE = (Path(__file__).parents[2] / "docs" / "simulators.md").read_text()


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "enginebay.cli", "simulate", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_says_that_it_is_simulated_serves_and_ends_on_sigterm():
    process = started("vllm", "--port", "0", "--profile", "instant", "--", "some/model", "--max-model-len", "128")
    assert process.stdout is not None
    try:
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first.startswith("simulated vllm 0.32.0: http://127.0.0.1:")
        assert second == "simulated vllm is ready: it serves some/model\n"
        with urlopen(first.strip().rpartition(": ")[2] + "/v1/models") as answer:
            assert answer.headers["x-enginebay-simulated"] == "1"
            assert json.load(answer)["data"][0]["max_model_len"] == 128
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_a_signal_while_it_loads_ends_it_at_once():
    process = started("vllm", "--port", "0", "--load-time-s", "600")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("simulated vllm")
    began_at = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert time.monotonic() - began_at < 10


def test_an_unknown_flag_is_refused_in_the_words_and_with_the_code_of_the_engine(capsys):
    assert run(["simulate", "vllm", "--", "m", "--num-shard", "2"]) == 2
    assert "vllm serve: error: unrecognized arguments: --num-shard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["foo"], "there is no simulator of 'foo'"),
        (["vllm", "--profile", "fast"], "there is no profile 'fast'"),
        (["vllm", "--fault", "fire"], "'fire' is no fault"),
        (["vllm", "--fault", "stall:7"], "P from 0 to 1"),
        (["vllm", "--fault", "stall:nan"], "P from 0 to 1"),
        (["vllm", "--load-time-s=-5"], "load_time_s"),
        (["vllm", "--profile", "paced", "--tick-s", "0"], "tick_s"),
        (["vllm", "--tick-s", "0.1"], "--tick-s: the profile 'cpu' has no tick"),
        (["vllm", "--port", "99999"], "there is no port 99999"),
        (["vllm", "--", "m", "--port", "99999"], "99999"),
        (["vllm", "--", "m", "--max-model-len", "999999999"], "the KV cache holds"),
    ],
)
def test_what_cannot_be_simulated_is_said_with_exit_code_2(arguments, words, capsys):
    assert run(["simulate", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["simulate", "vllm", "--port", str(port)]) == 2
    assert f"cannot listen on port {port}" in capsys.readouterr().err


def test_it_ends_and_says_why_when_its_engine_breaks(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(SimulatedEngine, "_load", lambda self: 1 // 0)
    assert run(["simulate", "vllm", "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert "the simulated vllm engine broke and its server has closed: ZeroDivisionError" in told


def test_ctrl_c_is_ours_again_when_the_simulator_has_ended(capsys):
    before = signal.getsignal(signal.SIGINT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["simulate", "vllm", "--port", str(taken.getsockname()[1])]) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_help_names_the_kinds_and_the_faults(capsys):
    assert run(["simulate", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in (*simulated_kinds(), "stall", "instant"):
        assert name in shown


def test_the_python_of_the_page_runs_to_the_error_that_it_announces():
    [block] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    block = block.replace('get_backend("vllm", mode="external", ', 'get_backend("openai_http", ')
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=60, check=False)
    assert len(done.stdout.splitlines()) == 3
    assert "BackendUnavailable" in done.stderr.splitlines()[-1]


def test_the_commands_of_the_page_start():
    commands = re.findall(r"^enginebay (simulate .*)$", PAGE, re.M)
    assert len(commands) == 2
    for command in commands:
        arguments = re.sub(r"--port \d+", "", command).split()
        process = started(*arguments[1:2], "--port", "0", *arguments[2:])
        assert process.stdout is not None
        assert process.stdout.readline().startswith("simulated"), process.communicate()
        process.kill()
        process.communicate()


def test_the_page_names_every_fault():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M) == list(Fault)
