"""`enginebay serve` and `uvicorn --factory` as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PLUGIN = """
import asyncio
from pydantic import BaseModel, ConfigDict
from enginebay.backend import BackendSpec, LaunchPlan
from enginebay.errors import EngineDied, StartFailed
from enginebay.hookspecs import hookimpl
from enginebay.types import *

FEATURES = Capabilities(features=frozenset({Feature.TEXT_PROMPT, Feature.CHAT}))

class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    fails: bool = False

class Parrot:
    def __init__(self, context):
        self.info = BackendInfo(kind="parrot", name=context.name, model=context.model, capabilities=FEATURES)
        self.options = context.options
        self.is_dead = False
    async def start(self):
        if self.options.fails:
            raise StartFailed("no perch", likely_cause="a fault on request")
    async def generate(self, request):
        if request.prompt.text == "wait":
            yield GenerationChunk(text="first ", num_tokens=1, received_at=0.0)
            await asyncio.sleep(0.5)
        if request.prompt.text in ("hang", "die", "trickle"):
            if request.prompt.text == "trickle":
                yield GenerationChunk(text="first ", num_tokens=1, received_at=0.0)
            print("begun", flush=True)
            self.is_dead = request.prompt.text == "die"
            if self.is_dead:
                await asyncio.sleep(1.5)
                raise EngineDied("the parrot is no more")
            await asyncio.Event().wait()
        usage = Usage(1, 1)
        yield GenerationChunk(
            text=request.prompt.text, num_tokens=1, received_at=0.0, usage=usage, finish_reason=FinishReason.STOP
        )
    async def health(self):
        if self.is_dead:
            return Health(HealthState.DEAD, "it has ceased to be", is_final=True)
        return Health(HealthState.READY)
    async def stats(self):
        return EngineStats()
    async def aclose(self):
        print("perch is free", flush=True)

@hookimpl
def enginebay_backend():
    return BackendSpec(
        kind="parrot", options_model=Options, capabilities=lambda version, options: FEATURES,
        compile=lambda settings, version: LaunchPlan(outcomes=()), create=Parrot,
    )
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A third party's backend beside the installed ones: a module and the metadata that names it."""
    metadata = tmp_path / "plugins" / "enginebay_parrot-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: enginebay-parrot\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[enginebay.backends]\nparrot = enginebay_parrot\n")
    (tmp_path / "plugins" / "enginebay_parrot.py").write_text(PLUGIN)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "plugins")}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "parrot.yaml"
    path.write_text(
        textwrap.dedent("""\
            version: 1
            model: polly
            backend: parrot
            backends:
              broken: {kind: parrot, options: {fails: true}}
            server: {port: 0, shutdown_grace_s: 5}
        """)
    )
    return path


@contextmanager
def serving(config: Path, *arguments: str, environment: dict[str, str], **popen: object) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "enginebay.cli", "serve", str(config), *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ready_url(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready: http://"), line + process.stderr.read()
    return line.split()[1]


def complete(url: str, prompt: str, *, stream: bool = False) -> str:
    body = json.dumps({"prompt": prompt, "stream": stream}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


def test_it_prints_its_real_address_when_ready_and_ends_with_zero_on_sigterm(
    config: Path, environment: dict[str, str]
) -> None:
    with serving(config, environment=environment) as process:
        url = ready_url(process)
        assert json.loads(complete(url, "hello"))["choices"][0]["text"] == "hello"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0, err
        assert "perch is free" in out


def test_a_running_stream_may_end_before_the_server_does(config: Path, environment: dict[str, str]) -> None:
    with serving(config, environment=environment) as process:
        address = ready_url(process).removeprefix("http://").split(":")
        body = b'{"prompt": "wait", "stream": true}'
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            received = b""
            while b"first" not in received:
                received += connection.recv(4096)
            process.send_signal(signal.SIGINT)
            while piece := connection.recv(4096):
                received += piece
        assert b"data: [DONE]" in received
        assert process.wait(10) == 0


def raw_request(url: str, body: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    return connection


def all_of(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(4096):
        received += piece
    return received


def test_what_outlasts_the_grace_is_ended_with_an_error_and_no_traceback(
    config: Path, environment: dict[str, str]
) -> None:
    config.write_text(config.read_text().replace("shutdown_grace_s: 5", "shutdown_grace_s: 0.5"))
    with serving(config, environment=environment) as process:
        url = ready_url(process)
        whole = raw_request(url, b'{"prompt": "hang"}')
        stream = raw_request(url, b'{"prompt": "trickle", "stream": true}')
        with whole, stream:
            assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
            process.send_signal(signal.SIGTERM)
            answer, events = all_of(whole), all_of(stream)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"shutting_down"' in answer
        assert events.startswith(b"HTTP/1.1 200 ")
        assert b"first" in events
        last, done = events.split(b"data: ")[-2:]
        assert b'"code":"shutting_down"' in last
        assert done.startswith(b"[DONE]")
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "perch is free" in out
        assert "Traceback" not in err
        assert err.count("request ended by shutdown") == 2


def test_a_backend_that_dies_ends_the_server_once_its_requests_are_answered(
    config: Path, environment: dict[str, str]
) -> None:
    with serving(config, environment=environment) as process:
        with raw_request(ready_url(process), b'{"prompt": "die"}') as connection:
            answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b'"code":"engine_died"' in answer
        out, err = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "error: the backend is dead, so the server ends: it has ceased to be; start it again" in err
        assert "perch is free" in out


def test_a_backend_that_does_not_start_ends_the_server_with_its_reason(
    config: Path, environment: dict[str, str]
) -> None:
    with serving(config, "--backend", "broken", environment=environment) as process:
        out, err = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "error: no perch" in err
        assert "ready:" not in out


def test_it_serves_on_an_inherited_socket(config: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        with serving(config, "--fd", str(fd), environment=environment, pass_fds=(fd,)) as process:
            url = ready_url(process)
            assert url.endswith(f":{listener.getsockname()[1]}")
            assert "hello" in complete(url, "hello", stream=True)


def test_a_port_that_is_taken_is_an_error_of_usage(config: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(config, "--port", port, environment=environment) as process:
            _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")
def test_it_dies_with_its_parent(config: Path, environment: dict[str, str]) -> None:
    """The pipe of the server's output ends only when the server, the last to hold it, is gone."""
    parent = textwrap.dedent(f"""\
        import subprocess, sys
        command = [sys.executable, "-m", "enginebay.cli", "serve", {str(config)!r}, "--die-with-parent"]
        child = subprocess.Popen(command)
        sys.stdin.read()
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    ready_url(process)
    process.kill()
    assert process.stdout is not None
    assert "perch is free" in process.stdout.read()
    process.communicate()


def test_uvicorn_serves_the_factory(config: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "enginebay.gateway:create_app", "--fd", str(fd)],
            env={**environment, "ENGINEBAY_CONFIG": str(config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(fd,),
        )
        try:
            assert process.stdout is not None
            while "Uvicorn running" not in (line := process.stdout.readline()):
                assert line
            assert "hello" in complete(f"http://127.0.0.1:{port}", "hello")
        finally:
            process.terminate()
            process.communicate(timeout=10)
