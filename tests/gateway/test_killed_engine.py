"""`kill -9` of one of two engines of ours behind a real gateway: streams go on, to the token where that is promised."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sqlite3
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from gateway_child import GatewayChild, fetched, gateway_child, have_ended, sum_of, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "backends" / "reference"))

from random_llama import write_random_llama
from tiny_tokenizers import byte_level

pytestmark = pytest.mark.slow
NUM_TOKENS = 600
KILLED_AFTER = 40
"""Events that the client has read."""
CONFIG = """
version: 1
model: {model}
engine: {{dtype: float32, max_model_len: 1024, max_num_seqs: 16, {more}}}
backends:
  ours: {{kind: reference, replicas: 2, options: {{num_threads: 1, kernels: plain, batch_invariant: {is_invariant}}}}}
server: {{port: 0}}
gateway:
  reload_on_change: false
  models: {{m: {{versions: {{v1: [{{backend: ours}}]}}}}}}
  routing: {{policy: least_loaded}}
  health: {{period_s: 0.2}}
  restarts: {{min_pause_s: 0.1, max_pause_s: 0.2}}
  database: sqlite:///{folder}/gateway.db
  ledger: {{journal: {folder}/journal}}
"""
JSON = {"content-type": "application/json"}
GREEDY = {"temperature": 0}
SEEDED = {"temperature": 1.0, "seed": 11}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_level()
    folder = write_random_llama(
        tmp_path_factory.mktemp("models") / "tiny", vocab_size=tokenizer.get_vocab_size(), max_model_len=1024
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@contextmanager
def gateway_of_two(
    model: Path, folder: Path, *, is_invariant: bool, more: str = ""
) -> Generator[GatewayChild, None, None]:
    config = CONFIG.format(model=model, folder=folder, is_invariant=str(is_invariant).lower(), more=more)
    with gateway_child(config, folder) as gateway:
        gateway.wait_for("ready:")
        yield gateway
        engines = gateway.engines()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ended() == 0, gateway.log
        assert have_ended(engines)


def asked(request_id: str, **fields: object) -> dict[str, object]:
    return {
        "model": "m",
        "prompt": "the quick brown fox",
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        "request_id": request_id,
        **fields,
    }


def whole(gateway: GatewayChild, **fields: object) -> list[int]:
    answer = json.loads(fetched(f"{gateway.url}/v1/completions", fields=asked("whole", **fields)))
    return answer["choices"][0]["token_ids"]


def events_of(response: http.client.HTTPResponse) -> Iterator[dict]:
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def interrupted(gateway: GatewayChild, request_id: str, **fields: object) -> list[int]:
    """The tokens of a stream whose engine is killed in the middle of it."""
    before = cpu_times(gateway)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    headers = {**JSON, "x-request-id": request_id}
    connection.request("POST", "/v1/completions", json.dumps(asked(request_id, **fields, stream=True)), headers)
    response = connection.getresponse()
    token_ids: list[int] = []
    for number, event in enumerate(events_of(response)):
        assert "error" not in event, event
        token_ids += event["choices"][0]["token_ids"]
        if number == KILLED_AFTER:
            busiest(gateway, before).kill()
    response.close()
    connection.close()
    return token_ids


def cpu_times(gateway: GatewayChild) -> dict[psutil.Process, float]:
    return {engine: sum(engine.cpu_times()[:2]) for engine in gateway.engines()}


def busiest(gateway: GatewayChild, before: dict[psutil.Process, float]) -> psutil.Process:
    """The engine that computes the only stream."""
    return max(cpu_times(gateway).items(), key=lambda item: item[1] - before.get(item[0], 0.0))[0]


def labels(folder: Path) -> dict[str, str | None]:
    return dict(ledger_rows(folder, "SELECT request_id, resumed FROM ledger WHERE num_attempts > 1"))


def both_ready(gateway: GatewayChild, num_restarts: int) -> None:
    gateway.wait_for("replica ready", num=2 + num_restarts)


def test_a_stream_goes_on_in_the_other_engine_as_if_nothing_had_been(model: Path, tmp_path: Path) -> None:
    with gateway_of_two(model, tmp_path, is_invariant=True) as gateway:
        for num_restarts, (name, fields) in enumerate((("greedy", GREEDY), ("seeded", SEEDED))):
            both_ready(gateway, num_restarts)
            uninterrupted = whole(gateway, **fields)
            assert interrupted(gateway, name, **fields) == uninterrupted
            assert len(uninterrupted) == NUM_TOKENS
            assert len(set(uninterrupted)) > (1 if name == "greedy" else 100)  # there is something to get wrong
    assert labels(tmp_path) == {"greedy": "exact", "seeded": "exact"}


def test_without_batch_invariance_it_goes_on_and_is_labelled_as_approximate(model: Path, tmp_path: Path) -> None:
    with gateway_of_two(model, tmp_path, is_invariant=False) as gateway:
        both_ready(gateway, 0)
        assert len(interrupted(gateway, "greedy", **GREEDY)) == NUM_TOKENS
    assert labels(tmp_path) == {"greedy": "approximate"}


def test_under_load_no_request_fails_and_every_stream_goes_on(model: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from chaos_clients import Plan, ask

    def plan(number: int) -> Plan:
        return Plan(
            request_id=f"load-{number}",
            key="none",
            is_streamed=number % 2 == 0,
            max_tokens=60,
            leaves_after_s=None,
            pause_s=0.0,
        )

    async def main(gateway: GatewayChild) -> None:
        places = asyncio.Semaphore(16)
        ended: list[int] = []

        async def client(number: int):
            async with places:
                seen = await ask(plan(number), gateway.port)
            ended.append(number)
            if len(ended) == 20:
                gateway.engines()[-1].kill()
            return seen

        seen = await asyncio.gather(*(client(number) for number in range(100)))
        assert {each.ending for each in seen} == {"answered", "streamed"}, [each for each in seen if each.error_code]
        assert {each.num_tokens for each in seen} == {60}

    with gateway_of_two(model, tmp_path, is_invariant=True) as gateway:
        both_ready(gateway, 0)
        asyncio.run(main(gateway))
        wait_until(lambda: "replica is dead" in gateway.log, "an engine died")
    assert set(labels(tmp_path).values()) <= {"exact", None}
    assert labels(tmp_path)


def test_what_the_engine_made_for_clients_that_left_is_told_to_the_token(model: Path, tmp_path: Path) -> None:
    """Of one request it computes its prompt and all of its tokens but the last: from that follows what it made."""
    num_streams = 8
    names = ("enginebay_engine_computed_tokens_total", "enginebay_engine_discarded_tokens_total")
    with gateway_of_two(model, tmp_path, is_invariant=False, more="enable_prefix_caching: false") as gateway:
        both_ready(gateway, 0)
        metrics = f"{gateway.url}/metrics"
        before = [sum_of(fetched(metrics).decode(), name) for name in names]
        for number in range(num_streams):
            leave_after(gateway, f"left-{number}", num_events=3 * number)
        wait_until(lambda: is_idle(fetched(metrics).decode()), "the engines are idle")
        computed, discarded = (
            sum_of(fetched(metrics).decode(), name) - was for name, was in zip(names, before, strict=True)
        )
    rows = ledger_rows(tmp_path, "SELECT outcome, num_prompt_tokens, num_output_tokens FROM ledger")
    assert [row[0] for row in rows] == ["cancelled"] * num_streams
    num_made = computed - sum(row[1] for row in rows) + num_streams
    assert discarded == num_made - sum(row[2] for row in rows)
    assert discarded > 0


def leave_after(gateway: GatewayChild, request_id: str, *, num_events: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(asked(request_id, **GREEDY, stream=True)), JSON)
    response = connection.getresponse()
    for _ in zip(range(num_events + 1), events_of(response), strict=False):
        continue
    response.close()
    connection.close()


def is_idle(text: str) -> bool:
    return sum_of(text, "llm_requests_in_flight") == 0 and sum_of(text, "enginebay_open_requests") == 1


def ledger_rows(folder: Path, query: str) -> list[tuple]:
    connection = sqlite3.connect(folder / "gateway.db")
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows
