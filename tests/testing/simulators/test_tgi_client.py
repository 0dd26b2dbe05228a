"""TGI's official client, `text-generation` 0.7.0, unchanged, against the simulated TGI."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from enginebay.testing.simulators import Fault, Simulator

pytestmark = [pytest.mark.install, pytest.mark.timeout(400)]

VERSION = "0.7.0"
CALLS = Path(__file__).with_name("tgi_client_calls.py")
VENV = Path(__file__).parents[3] / ".venvs" / "tgi-client"


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has the client. Its environment is kept: huggingface_hub there is older than ours."""
    python = VENV / "bin" / "python"
    if not _has_client(python):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, timeout=120)
        pip = (str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        subprocess.run([*pip, f"text-generation=={VERSION}"], check=True, timeout=240)
    assert _has_client(python)
    return python


def _has_client(python: Path) -> bool:
    if not python.exists():
        return False
    ask = "import importlib.metadata as metadata; print(metadata.version('text-generation'))"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() == VERSION


def called(python: Path, what: str, *, flags: Sequence[str] = (), fault: Fault | None = None) -> Any:
    async def main() -> Any:
        async with Simulator("tgi", ["--model-id", "m", *flags]) as simulator:
            if fault is not None:
                simulator.faults.inject(fault)
            client = await asyncio.create_subprocess_exec(
                str(python), str(CALLS), simulator.url, what, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            out, err = await client.communicate()
            assert client.returncode == 0, err.decode()
            assert simulator.num_in_flight == 0
            return json.loads(out)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def found(python: Path) -> dict[str, Any]:
    return called(python, "all", flags=("--enable-prefill-logprobs",))


def test_a_whole_answer_has_text_tokens_and_details(found: dict[str, Any]) -> None:
    details = found["whole"]["details"]
    assert details["generated_tokens"] == len(details["tokens"]) == 6
    assert details["finish_reason"] == "length"
    assert "".join(token["text"] for token in details["tokens"]) == found["whole"]["generated_text"]
    assert found["full_text"].startswith("the quick brown fox")


def test_a_stream_says_the_same_token_by_token(found: dict[str, Any]) -> None:
    stream = found["stream"]
    assert [event["token"] for event in stream] == found["whole"]["details"]["tokens"]
    assert stream[-1]["generated_text"] == found["whole"]["generated_text"]
    assert stream[-1]["details"]["generated_tokens"] == 6
    assert all(event["details"] is None for event in stream[:-1])


def test_alternatives_and_the_prompt_are_told_on_demand(found: dict[str, Any]) -> None:
    assert [len(position) for position in found["top"]["details"]["top_tokens"]] == [2, 2, 2]
    prefill = found["prefill"]["details"]["prefill"]
    assert len(prefill) == 5
    assert prefill[0]["logprob"] is None


def test_a_seed_is_told_back_where_tokens_are_drawn(found: dict[str, Any]) -> None:
    assert found["sampled"]["details"]["seed"] == 7
    assert found["whole"]["details"]["seed"] is None


def test_a_stop_sequence_ends_the_stream_and_the_end_of_sequence_is_a_token(found: dict[str, Any]) -> None:
    assert found["eos"]["details"]["tokens"][-1]["special"] is True
    assert "</s>" not in found["eos"]["generated_text"]
    assert found["stopped"]["generated_text"].endswith("e")
    assert found["stopped"]["details"]["finish_reason"] == "stop_sequence"


def test_chats_are_answered_and_their_streams_meet_the_clients_own_defect(found: dict[str, Any]) -> None:
    assert found["chat"]["choices"][0]["message"]["content"]
    assert found["chat"]["usage"]["completion_tokens"] == 6
    assert found["chat_stream"] == "builtins.AttributeError: 'Response' object has no attribute 'status'"


def test_the_asynchronous_client_is_told_the_same(found: dict[str, Any]) -> None:
    assert found["async"]["whole"] == found["whole"]
    assert found["async"]["stream"] == found["stream"]
    assert found["async"]["chat"]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    "name", ["own_check", "validation", "validation_in_stream", "too_many_stops", "chat_validation"]
)
def test_refusals_become_the_clients_validation_error(found: dict[str, Any], name: str) -> None:
    assert found["errors"][name].startswith("text_generation.errors.ValidationError: ")


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.OVERLOAD, "OverloadedError: Model is overloaded"), (Fault.DEAD, "GenerationError: ")]
)
def test_faults_become_the_clients_own_errors(python: Path, fault: Fault, error: str) -> None:
    whole, streamed = called(python, "one_error", fault=fault)
    assert whole.startswith(f"text_generation.errors.{error}")
    assert streamed.startswith(f"text_generation.errors.{error}")
