"""configs/gateway/shared.yaml as two real gateways on one Redis and one PostgreSQL, used as people use them."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateway_child import CLI, GatewayChild, gateway_child, simulator_child, wait_until
from openai import AuthenticationError, OpenAI, RateLimitError

pytestmark = [pytest.mark.redis, pytest.mark.postgres]
CONFIG = Path(__file__).parents[2] / "configs" / "gateway" / "shared.yaml"
LISTENS = "server: {host: 0.0.0.0, port: 8000}"


class Shared:
    """Two gateways, and the commands of people who have the same config and environment."""

    def __init__(self, gateways: list[GatewayChild], environment: dict[str, str]) -> None:
        self.gateways, self.environment = gateways, environment

    def command(self, *words: str) -> str:
        """What it prints; the config stands where the word is CONFIG."""
        given = [str(self.gateways[0].path) if word == "CONFIG" else word for word in words]
        environment = {**os.environ, **self.environment, "COLUMNS": "200"}
        return subprocess.run([*CLI, *given], env=environment, capture_output=True, text=True, check=True).stdout

    def clients(self, key: str) -> list[OpenAI]:
        return [OpenAI(base_url=f"{one.url}/v1", api_key=key, max_retries=0) for one in self.gateways]


@pytest.fixture(scope="module")
def shared(
    redis_url: str, new_postgres_url: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    text = CONFIG.read_text()
    assert LISTENS in text
    text = text.replace(LISTENS, "server: {host: 127.0.0.1, port: 0}").replace(
        "requests_per_minute: 600", "requests_per_minute: 12"
    )
    with ExitStack() as stack:
        left, right = (stack.enter_context(simulator_child(flags=("--model", "smollm2-135m")))[1] for _ in range(2))
        urls = {"LEFT_URL": left, "RIGHT_URL": right}
        environment = {**urls, "DATABASE_URL": next(new_postgres_url), "REDIS_URL": redis_url}
        folders = [tmp_path_factory.mktemp("gateway") for _ in range(2)]
        gateways = [stack.enter_context(gateway_child(text, folder, environment=environment)) for folder in folders]
        assert all(gateway.url for gateway in gateways)  # both are up: they have made the tables together
        yield Shared(gateways, environment)


def ask(client: OpenAI):
    return client.completions.with_raw_response.create(model="assistant", prompt="one two", max_tokens=3)


def test_two_gateways_count_one_key_together_and_one_ledger_has_the_calls_of_both(shared: Shared) -> None:
    key = shared.command("keys", "create", "CONFIG", "team blue").strip()
    clients = shared.clients(key)
    answers = [ask(clients[number % 2]) for number in range(12)]
    lefts = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert lefts == [*range(11, -1, -1)]
    assert {answer.parse().usage.completion_tokens for answer in answers} == {3}
    for client in clients:
        with pytest.raises(RateLimitError) as refused:
            ask(client)
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"

    def rows() -> list[dict[str, str]]:
        printed = shared.command("costs", "CONFIG", "--by", "key,model,day", "--csv")
        return [row for row in csv.DictReader(printed.splitlines()) if row["key_name"] == "team blue"]

    wait_until(lambda: [row["num_finished"] for row in rows()] == ["12"], "all calls in the ledger")
    [row] = rows()
    assert (row["num_calls"], row["num_output_tokens"], row["num_refused"]) == ("12", "36", "0")
    assert float(row["cost"]) == pytest.approx(36 * 2.5 / 3600 / 1200, rel=1e-3)
    assert "team blue" in shared.command("costs", "CONFIG")


def test_a_rotated_key_works_in_both_and_a_revoked_one_in_neither(shared: Shared) -> None:
    old = shared.command("keys", "create", "CONFIG", "team red").strip()
    for client in shared.clients(old):
        assert client.models.list().data[0].id == "assistant"
    new = shared.command("keys", "rotate", "CONFIG", old, "--overlap-s", "600").strip()
    for client in (*shared.clients(old), *shared.clients(new)):
        client.models.list()
    assert "team red" in shared.command("keys", "list", "CONFIG")
    shared.command("keys", "revoke", "CONFIG", new)
    for client in (*shared.clients(old), *shared.clients(new)):
        wait_until(lambda client=client: is_refused(client), "the revocation seen")
    assert "revoked" in shared.command("keys", "list", "CONFIG")


def is_refused(client: OpenAI) -> bool:
    try:
        client.models.list()
    except (AuthenticationError, RateLimitError):  # the second, where it has asked too often before
        return True
    return False
