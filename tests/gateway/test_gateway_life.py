"""The life of a real gateway process: its start, its signals, its end. No engine outlives it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_child import (
    GatewayChild,
    fetched,
    gateway_child,
    have_ended,
    simulator_child,
    wait_until,
    with_nests,
)

TWO_VERSIONS = """
version: 1
backends:
  left: {kind: nest, replicas: 2}
  right: {kind: nest}
server: {port: 0, shutdown_grace_s: 60}
gateway:
  reload_on_change: false
  models:
    bird: {versions: {v1: [{backend: left}], v2: [{backend: right}]}, current: v1}
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return with_nests(tmp_path)


@contextmanager
def open_stream(gateway: GatewayChild, prompt: str) -> Generator[http.client.HTTPResponse, None, None]:
    """Its first line has been read."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    body = json.dumps({"model": "bird", "prompt": prompt, "stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    try:
        assert b"cheep" in response.readline()
        yield response
    finally:
        response.close()
        connection.close()


def said_by(gateway: GatewayChild) -> str:
    answer = json.loads(fetched(f"{gateway.url}/v1/completions", fields={"model": "bird", "prompt": "who"}))
    return answer["choices"][0]["text"]


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_streams_end_takes_no_new_ones_and_leaves_no_engine(
    number: signal.Signals, tmp_path: Path, environment: dict[str, str]
) -> None:
    release = tmp_path / "release"
    with gateway_child(TWO_VERSIONS, tmp_path, environment=environment) as gateway:
        gateway.wait_for("ready:")
        engines = gateway.engines()
        assert len(engines) == 3
        with open_stream(gateway, f"until {release}") as stream:
            gateway.process.send_signal(number)
            wait_until(lambda: refuses_connections(gateway.port), "new connections are refused")
            assert all(engine.is_running() for engine in engines)
            release.touch()
            rest = stream.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b"error" not in rest
        assert gateway.ended() == 0, gateway.log
        assert have_ended(engines)
        assert "Traceback" not in gateway.log


def test_a_second_signal_ends_what_runs_at_once_with_a_word(tmp_path: Path, environment: dict[str, str]) -> None:
    with gateway_child(TWO_VERSIONS, tmp_path, environment=environment) as gateway:
        gateway.wait_for("ready:")
        engines = gateway.engines()
        with open_stream(gateway, f"until {tmp_path / 'never'}") as stream:
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses_connections(gateway.port), "it drains")
            gateway.process.send_signal(signal.SIGTERM)
            events = stream.read().split(b"\n\n")
        assert json.loads(events[-3].removeprefix(b"data: "))["error"]["code"] == "shutting_down"
        assert gateway.ended(10) == 0, gateway.log
        assert have_ended(engines)


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_an_engine_that_does_not_end(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    lingering = TWO_VERSIONS.replace("right: {kind: nest}", "right: {kind: nest, options: {lingers: true}}")
    with gateway_child(lingering, tmp_path, environment=environment) as gateway:
        gateway.wait_for("ready:")
        left = gateway.engines()
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("right lingers")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ended(10) == 0, gateway.log
        still_there = [engine for engine in left if engine.is_running()]
        for engine in still_there:
            engine.kill()
        assert len(still_there) == 1  # that of the plugin that does not end it


def test_a_hangup_moves_an_alias_while_running_calls_stay_and_a_bad_config_changes_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    release = tmp_path / "release"
    with gateway_child(TWO_VERSIONS, tmp_path, environment=environment) as gateway:
        assert said_by(gateway) == "left"
        engines = gateway.engines()
        with open_stream(gateway, f"until {release}") as stream:
            gateway.path.write_text(TWO_VERSIONS.replace("current: v1", "current: v9"))
            gateway.process.send_signal(signal.SIGHUP)
            assert "v9" in json.loads(gateway.wait_for("config refused, the old one stays"))["reason"]
            assert said_by(gateway) == "left"
            gateway.path.write_text(TWO_VERSIONS.replace("current: v1", "current: v2"))
            gateway.process.send_signal(signal.SIGHUP)
            gateway.wait_for("config reloaded")
            assert said_by(gateway) == "right"
            release.touch()
            assert b'"left"' in stream.read()
        assert gateway.engines() == engines  # the same ones


def test_a_reload_whose_new_engine_does_not_start_is_refused_and_leaves_none(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with gateway_child(TWO_VERSIONS, tmp_path, environment=environment) as gateway:
        gateway.wait_for("ready:")
        engines = gateway.engines()
        broken = TWO_VERSIONS.replace("right: {kind: nest}", "right: {kind: nest, options: {fails: true}}")
        gateway.path.write_text(broken)
        gateway.process.send_signal(signal.SIGHUP)
        assert "right has no eggs" in json.loads(gateway.wait_for("config refused"))["reason"]
        assert gateway.engines() == engines
        assert said_by(gateway) == "left"


def test_a_signal_in_the_middle_of_a_reload_leaves_no_engine_of_either_config(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with gateway_child(TWO_VERSIONS, tmp_path, environment=environment) as gateway:
        gateway.wait_for("ready:")
        options = f"{{starts_with: {tmp_path / 'never'}}}"
        gateway.path.write_text(
            TWO_VERSIONS.replace("right: {kind: nest}", f"right: {{kind: nest, options: {options}}}")
        )
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for("right loads", num=2)
        engines = gateway.engines()
        assert len(engines) == 4
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ended() == 0, gateway.log
        assert have_ended(engines)
        assert "Traceback" not in gateway.log


def test_a_hangup_while_it_loads_is_kept_until_it_can_be_followed(tmp_path: Path, environment: dict[str, str]) -> None:
    hatched, known = tmp_path / "hatched", tmp_path / "known"
    plugin = tmp_path / "plugins" / "enginebay_nest.py"
    waiting = f"import time\nprint('imported', flush=True)\nwhile not Path({str(known)!r}).exists(): time.sleep(0.01)\n"
    plugin.write_text(plugin.read_text() + waiting)
    slow = TWO_VERSIONS.replace("{kind: nest}", f"{{kind: nest, options: {{starts_with: {hatched}}}}}")
    with gateway_child(slow, tmp_path, environment=environment) as gateway:
        gateway.wait_for("imported")
        gateway.path.write_text(slow.replace("current: v1", "current: v2"))
        gateway.process.send_signal(signal.SIGHUP)
        known.touch()  # only now can it begin to listen
        hatched.touch()
        gateway.wait_for("config reloaded")
        assert said_by(gateway) == "right"
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.send_signal(signal.SIGHUP)  # while it ends
        assert gateway.ended() == 0, gateway.log


def test_a_hangup_ends_a_server_that_has_nothing_to_reload(tmp_path: Path, environment: dict[str, str]) -> None:
    thin = "version: 1\nbackend: left\nbackends: {left: {kind: nest}}\nserver: {port: 0}\n"
    with gateway_child(thin, tmp_path, environment=environment) as gateway:
        gateway.wait_for("ready:")
        engines = gateway.engines()
        gateway.process.send_signal(signal.SIGHUP)
        assert gateway.ended() == -signal.SIGHUP
        for engine in engines:
            engine.kill()


def test_an_engine_that_does_not_start_ends_the_server_with_its_reason_and_all_other_engines(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    gate = tmp_path / "gate"
    options = f"{{fails: true, starts_with: {gate}}}"
    broken = TWO_VERSIONS.replace("right: {kind: nest}", f"right: {{kind: nest, options: {options}}}")
    with gateway_child(broken, tmp_path, environment=environment) as gateway:
        for name in ("left loads", "right loads"):
            gateway.wait_for(name)
        engines = gateway.engines()
        assert len(engines) == 3
        gate.touch()
        assert gateway.ended() == 1
        assert gateway.lines[-2:] == ["error: right has no eggs\n", "likely cause: a fault on request\n"]
        assert "ready:" not in gateway.log
        assert have_ended(engines)


def test_a_signal_while_it_loads_ends_it_cleanly(tmp_path: Path, environment: dict[str, str]) -> None:
    slow = TWO_VERSIONS.replace(
        "right: {kind: nest}", f"right: {{kind: nest, options: {{starts_with: {tmp_path}/no}}}}"
    )
    with gateway_child(slow, tmp_path, environment=environment) as gateway:
        gateway.wait_for("right loads")
        engines = gateway.engines()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ended() == 0, gateway.log
        assert have_ended(engines)


@pytest.mark.slow
def test_a_server_elsewhere_may_come_up_later(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    elsewhere = f"""
version: 1
backends:
  far: {{kind: openai_http, url: "http://127.0.0.1:{port}", model: tiny, options: {{start_timeout_s: 0.2}}}}
server: {{port: 0}}
gateway:
  restarts: {{min_pause_s: 0.1, max_pause_s: 0.2}}
  models: {{bird: {{versions: {{v1: [{{backend: far}}]}}}}}}
"""
    with gateway_child(elsewhere, tmp_path) as gateway:
        gateway.wait_for("replica failed to start", num=2)
        with simulator_child("--profile", "instant", port=port):
            assert len(said_by(gateway)) > 1
