"""`kill -9` of a real gateway under load over HTTP: each answered call is in the ledger, once."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from gateway_child import GatewayChild, gateway_child, simulator_child

from enginebay.gateway.database import open_database
from enginebay.gateway.ledger.tables import ledger

pytestmark = pytest.mark.slow
NUM_KILLS, NUM_CLIENTS, NUM_ANSWERED = 3, 8, 150
CONFIG = """
version: 1
backends: {{engine: {{kind: openai_http, url: "{engine}", model: tiny}}}}
server: {{host: 127.0.0.1, port: 0}}
gateway:
  models: {{tiny: {{versions: {{v1: [{{backend: engine}}]}}}}}}
  database: sqlite:///{folder}/gateway.db
  limits: {{address: {{tokens_per_minute: 100000000, concurrent_requests: 1000}}}}
  ledger: {{journal: {folder}/journal, prices: {{tiny: {{prompt: 1, output: 2}}}}}}
"""


class Load:
    """Clients that ask one thing after the other, streamed and not, until the gateway is gone."""

    def __init__(self, gateway: GatewayChild, round_name: str, enough: int) -> None:
        self.answered: list[str] = []
        self._round_name, self._serials = round_name, count()
        self._port, self._enough, self.is_enough = gateway.port, enough, threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)

    def _ask_on(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            while True:
                try:
                    self._ask(connection, f"{self._round_name}-{next(self._serials)}")
                except (OSError, http.client.HTTPException):
                    return  # in the middle of this one, the gateway was killed

    def _ask(self, connection: http.client.HTTPConnection, request_id: str) -> None:
        fields = {"model": "tiny", "prompt": "a b", "max_tokens": 3, "stream": int(request_id[-1]) % 2 == 0}
        headers = {"content-type": "application/json", "x-request-id": request_id}
        connection.request("POST", "/v1/completions", json.dumps(fields), headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200
        if fields["stream"] and not body.endswith(b"[DONE]\n\n"):
            raise http.client.IncompleteRead(body)
        self.answered.append(request_id)
        if len(self.answered) >= self._enough:
            self.is_enough.set()


@pytest.fixture
def engine() -> Iterator[str]:
    with simulator_child("--profile", "instant") as (_, url):
        yield url


def test_no_answered_call_is_missing_and_none_is_doubled(engine: str, tmp_path: Path) -> None:
    answered: list[str] = []
    config = CONFIG.format(engine=engine, folder=tmp_path)
    for number in range(NUM_KILLS + 1):
        with ExitStack() as stack:
            gateway = stack.enter_context(gateway_child(config, tmp_path))
            load = Load(gateway, f"round{number}", NUM_ANSWERED * (number + 1))
            assert load.is_enough.wait(60)
            if number < NUM_KILLS:
                gateway.process.kill()
            else:  # the last one ends in peace, and has stored what the others left
                gateway.process.terminate()
                assert gateway.ended() == 0
            load.join()
            answered += load.answered
    with closing(open_database(f"sqlite:///{tmp_path}/gateway.db")) as database, database.reading() as connection:
        rows = connection.execute(sa.select(ledger.c.request_id, ledger.c.outcome, ledger.c.num_output_tokens)).all()
    stored = Counter(row.request_id for row in rows)
    assert [request_id for request_id in answered if request_id not in stored] == []
    assert [request_id for request_id, num in stored.items() if num != 1] == []
    # one that was written down and whose last byte was never sent: for each client that was cut off, and no more
    assert len(stored) - len(answered) <= NUM_CLIENTS * (NUM_KILLS + 1)
    finished = {row.request_id for row in rows if row.outcome == "finished" and row.num_output_tokens == 3}
    assert set(answered) <= finished
    assert list((tmp_path / "journal").glob("*")) == []
