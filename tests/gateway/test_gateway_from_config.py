"""A config with a gateway section: models, door, limits, ledger and reloads behind the same routes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_client import AsgiExchange, get, living, post, settle
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import load_config, parse_config
from enginebay.config.models import Config
from enginebay.errors import ConfigError, ConfigErrors
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.app import Gateway
from enginebay.gateway.assembly.assembly import Assembly
from enginebay.gateway.database import open_database
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.ledger.costs import costs
from enginebay.gateway.logs import make_logger
from enginebay.gateway.reloading import Reloader
from enginebay.testing.fake_backend import Stall, say_tokens
from enginebay.testing.fake_clock import FakeClock

TWO_MODELS = """
version: 1
backends:
  one: {kind: fake, replicas: 2}
  two: {kind: fake}
gateway:
  models:
    assistant: {versions: {v1: [{backend: one}], v2: [{backend: two}]}, current: v1, default_max_tokens: 7}
    writer: {versions: {v1: [{backend: two}]}}
"""
ASKED = {"model": "assistant", "prompt": "a b c", "max_tokens": 4}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def run(config: Config, test: Callable[[Gateway], Awaitable[None]]) -> None:
    """On a clock that stands still while anything can run."""

    async def main() -> None:
        clock = FakeClock(1000.0)
        app = app_from_config(config, log=make_logger(level="critical"), clock=clock)

        async def live() -> None:
            async with living(app):
                await test(app)

        await clock.run(live())

    asyncio.run(main())


def run_in_real_time(config: Config, test: Callable[[Gateway], Awaitable[None]]) -> None:
    """Where a database answers in threads, of which a fake clock knows nothing."""

    async def main() -> None:
        async with living(app_from_config(config, log=make_logger(level="critical"))) as app:
            await test(app)

    asyncio.run(main())


async def answered(exchange: AsgiExchange) -> AsgiExchange:
    await exchange.task
    return exchange


def test_each_alias_is_served_by_the_replicas_of_its_current_version(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        for _ in range(4):
            done = await answered(post(app, "/v1/completions", ASKED))
            assert (done.status, done.json()["model"], done.json()["usage"]["completion_tokens"]) == (
                200,
                "assistant",
                4,
            )
        assert sum(len(backend.requests) for backend in kind.backends["one"]) == 4
        await answered(post(app, "/v1/completions", {**ASKED, "model": "writer"}))
        await answered(post(app, "/v1/completions", {**ASKED, "model": "assistant@v2"}))
        assert len(kind.latest("two").requests) == 2

    run(parse_config(TWO_MODELS), test)


def test_models_are_listed_and_unknown_or_missing_ones_are_refused(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        listed = (await answered(get(app, "/v1/models"))).json()["data"]
        assert [entry["id"] for entry in listed] == ["assistant", "writer"]
        unknown = await answered(post(app, "/v1/completions", {**ASKED, "model": "nobody"}))
        assert (unknown.status, unknown.json()["error"]["code"]) == (404, "model_not_found")
        missing = await answered(post(app, "/v1/completions", {"prompt": "a"}))
        assert (missing.status, missing.json()["error"]["param"]) == (400, "model")
        told = await answered(post(app, "/generate", {"prompt": "a", "model": "writer", "max_tokens": 2}))
        assert told.json() == {"text": " t0 t1"}

    run(parse_config(TWO_MODELS), test)


def test_a_request_without_max_tokens_gets_the_models_default(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        chat = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]}
        for exchange in (
            post(app, "/v1/chat/completions", chat),
            post(app, "/v1/completions", {**ASKED, "max_tokens": None}),
        ):
            done = await answered(exchange)
            assert done.json()["usage"]["completion_tokens"] == 7

    run(parse_config(TWO_MODELS), test)


def test_without_keys_only_this_machine_is_served(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        refused = await answered(post(app, "/v1/completions", ASKED, address="10.0.0.7"))
        assert (refused.status, refused.json()["error"]["code"]) == (403, "permission_denied")
        assert "enginebay keys create" in refused.json()["error"]["message"]
        assert (await answered(get(app, "/metrics", address="10.0.0.7"))).status == 403
        assert (await answered(get(app, "/health", address="10.0.0.7"))).status == 200
        assert (await answered(post(app, "/v1/completions", ASKED, address="::1"))).status == 200
        assert not kind.backends["two"][0].requests

    run(parse_config(TWO_MODELS), test)


def with_parts(tmp_path: Path, parts: str) -> Config:
    text = f"{TWO_MODELS}  database: sqlite:///{tmp_path}/gateway.db\n{parts}"
    return parse_config(text.replace("JOURNAL", str(tmp_path / "journal")))


def new_key(tmp_path: Path, **others: Any) -> str:
    database = open_database(f"sqlite:///{tmp_path}/gateway.db")
    try:
        return KeyStore(database).create("a test", scopes=["inference"], **others).text
    finally:
        database.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_with_access_a_key_is_needed_and_opens_its_models_alone(kind: FakeKind, tmp_path: Path) -> None:
    key = new_key(tmp_path, models=["writer"])

    async def test(app: Gateway) -> None:
        assert (await answered(post(app, "/v1/completions", ASKED))).status == 401
        assert (await answered(post(app, "/v1/completions", ASKED, headers=bearer("eb-nonsense")))).status == 401
        headers = bearer(key)
        assert (
            await answered(post(app, "/v1/completions", {**ASKED, "model": "writer"}, headers=headers))
        ).status == 200
        for foreign in ("assistant", "assistant@v2", "writer@v1"):
            refused = await answered(post(app, "/v1/completions", {**ASKED, "model": foreign}, headers=headers))
            assert refused.status == 404
        listed = (await answered(get(app, "/v1/models", headers=headers))).json()["data"]
        assert [entry["id"] for entry in listed] == ["writer"]
        assert (await answered(get(app, "/metrics", headers=headers))).status == 403
        assert (await answered(get(app, "/health"))).status == 200

    run_in_real_time(with_parts(tmp_path, "  access: {}\n"), test)


def test_tokens_are_reserved_from_the_counted_prompt_and_settled_to_what_was_used(
    kind: FakeKind, tmp_path: Path
) -> None:
    kind.script = lambda request: say_tokens(request, num_tokens=2)

    async def test(app: Gateway) -> None:
        for _ in range(2):  # each reserves 3 + 20 and uses 3 + 2
            done = await answered(post(app, "/v1/completions", {**ASKED, "max_tokens": 20}))
            assert done.status == 200, done.body
        refused = await answered(post(app, "/v1/completions", {**ASKED, "max_tokens": 20}))
        assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.header("retry-after") or 0) >= 1

    run_in_real_time(with_parts(tmp_path, "  limits: {address: {tokens_per_minute: 30}}\n"), test)


def test_requests_of_an_address_are_limited_without_keys_too(kind: FakeKind, tmp_path: Path) -> None:
    async def test(app: Gateway) -> None:
        statuses = [(await answered(post(app, "/v1/completions", ASKED))).status for _ in range(3)]
        assert statuses == [200, 200, 429]

    run(with_parts(tmp_path, "  limits: {address: {requests_per_minute: 2}}\n"), test)


def test_every_call_has_one_row_in_the_ledger(kind: FakeKind, tmp_path: Path) -> None:
    parts = "  ledger: {journal: JOURNAL, prices: {assistant: {prompt: 1, output: 2}}}\n"

    async def test(app: Gateway) -> None:
        assert (await answered(post(app, "/v1/completions", ASKED))).status == 200
        assert (await answered(post(app, "/v1/completions", {**ASKED, "stream": True}))).status == 200
        assert (await answered(post(app, "/v1/completions", {**ASKED, "temperature": -1}))).status == 400
        kind.script = lambda request: [Stall()]
        left = post(app, "/v1/completions", ASKED)
        await settle()
        left.leave()
        await left.task

    run_in_real_time(with_parts(tmp_path, parts), test)
    database = open_database(f"sqlite:///{tmp_path}/gateway.db")
    [row] = costs(database, by=("model",))
    database.close()
    sums = row.sums
    assert (sums.num_calls, sums.num_finished, sums.num_refused, sums.num_cancelled) == (4, 2, 1, 1)
    assert (sums.num_output_tokens, sums.num_prompt_tokens) == (8, 6)
    assert sums.cost_nano == 2 * (3 * 1000 + 4 * 2000)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ("  limits: {key: {requests_per_minute: 3}}", "need access"),
        ("  access: {}\n  limits: {key: {budget: {amount: 1, per: day}}}", "needs ledger"),
        ("  limits: {address: {requests_a_minute: 3}}", "unknown key"),
    ],
)
def test_limits_that_would_not_hold_are_refused(parts: str, problem: str) -> None:
    with pytest.raises((ConfigError, ConfigErrors), match=problem):
        parse_config(f"{TWO_MODELS}{parts}\n")


def assembled(config: Config, clock: FakeClock) -> tuple[Assembly, Gateway]:
    assembly = Assembly(config, log=make_logger(level="critical"), clock=clock)
    return assembly, Gateway(assembly.served, assembly.open_requests, assembly.parts)


def test_a_reload_moves_an_alias_for_new_calls_and_leaves_the_others_where_they_are(kind: FakeKind) -> None:
    async def main() -> None:
        clock = FakeClock(1000.0)
        assembly, app = assembled(parse_config(TWO_MODELS), clock)

        async def live() -> None:
            async with living(app):
                kind.script = lambda request: [*say_tokens(request)[:4], Stall()]
                before = post(app, "/v1/completions", {**ASKED, "stream": True})
                await before.next_message()
                kind.script = say_tokens
                await assembly.reload(parse_config(TWO_MODELS.replace("current: v1", "current: v2")))
                assert (await answered(post(app, "/v1/completions", ASKED))).status == 200
                assert len(kind.latest("two").requests) == 1
                assert sum(backend.num_live_streams for backend in kind.backends["one"]) == 1
                assert len(kind.backends["one"]) == 2  # the same engines go on
                before.leave()
                await before.task

        await clock.run(live())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("version: 1", "version: 1\nserver: {port: 9999}", "server.port cannot be changed"),
        ("  models:", "  access: {}\n  models:", "gateway.access cannot be changed"),
        ("{kind: fake}", "{kind: fakir}", "no kind of backend"),
    ],
)
def test_a_reload_that_cannot_be_taken_leaves_everything(kind: FakeKind, old: str, new: str, problem: str) -> None:
    async def main() -> None:
        clock = FakeClock(1000.0)
        assembly, app = assembled(parse_config(TWO_MODELS), clock)

        async def live() -> None:
            async with living(app):
                content = assembly.served.models.content  # pyright: ignore[reportAttributeAccessIssue]
                with pytest.raises(Exception, match=problem):
                    await assembly.reload(parse_config(TWO_MODELS.replace(old, new)))
                assert assembly.served.models.content is content  # pyright: ignore[reportAttributeAccessIssue]
                assert (await answered(post(app, "/v1/completions", ASKED))).status == 200

        await clock.run(live())

    asyncio.run(main())


def test_limits_change_with_a_reload_and_what_is_used_up_stays_used_up(kind: FakeKind, tmp_path: Path) -> None:
    def limited(num_tokens: int) -> Config:
        return with_parts(tmp_path, f"  limits: {{address: {{tokens_per_minute: {num_tokens}}}}}\n")

    async def main() -> None:
        clock = FakeClock(1000.0)
        assembly, app = assembled(limited(100), clock)

        async def live() -> None:
            async with living(app):
                assert (await answered(post(app, "/v1/completions", ASKED))).status == 200
                await assembly.reload(limited(10))
                assert (await answered(post(app, "/v1/completions", ASKED))).status == 429

        await clock.run(live())

    asyncio.run(main())


def test_a_file_that_changes_is_read_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(TWO_MODELS)

    async def main() -> None:
        taken: asyncio.Queue[Config] = asyncio.Queue()

        async def take(config: Config) -> None:
            taken.put_nowait(config)

        reloader = Reloader(file, lambda: load_config(file), take, watches_file=True, log=make_logger(level="critical"))
        await reloader.begin()
        async with asyncio.timeout(10):
            reloader.ask()
            await taken.get()
            (tmp_path / "new").write_text("version: 1\ngateway: {}\n")
            (tmp_path / "new").replace(file)
            while not reloader.num_refused:
                file.touch()
                await asyncio.sleep(0.05)
            file.write_text(TWO_MODELS.replace("current: v1", "current: v2"))
            config = await taken.get()
        await reloader.end()
        assert config.gateway is not None
        assert config.gateway.models["assistant"].current == "v2"

    asyncio.run(main())


def test_shutdown_ends_the_streams_of_pools_with_a_word(kind: FakeKind) -> None:
    kind.script = lambda request: [*say_tokens(request)[:4], Stall()]

    async def test(app: Gateway) -> None:
        streams = [post(app, "/v1/completions", {**ASKED, "stream": True}) for _ in range(3)]
        await settle()
        app.end_open_requests()
        for stream in streams:
            await stream.task
            assert stream.events()[-1]["error"]["code"] == "shutting_down"
        assert sum(backend.num_live_streams for backend in kind.backends["one"]) == 0
        late = await answered(post(app, "/v1/completions", ASKED))
        assert (late.status, late.json()["error"]["code"]) == (503, "shutting_down")

    run(parse_config(TWO_MODELS), test)


def test_metrics_have_the_samples_of_all_replicas_under_one_head(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        await answered(post(app, "/v1/completions", ASKED))
        text = (await answered(get(app, "/metrics"))).body.decode()
        assert text.count("# TYPE llm_requests_total counter") == 1
        for replica in ("one-0", "one-1", "two-0"):
            assert f'replica="{replica}"' in text
        assert text.count("enginebay_simulated 1") == 1

    run(parse_config(TWO_MODELS), test)


def test_a_minimal_server_imports_nothing_of_the_gateway() -> None:
    code = """
import sys
from enginebay.config.loader import parse_config
import enginebay.cli.serve
from enginebay.gateway.from_config import app_from_config
app_from_config(parse_config("version: 1\\nbackend: openai_http\\nbackends: {openai_http: {url: 'http://127.0.0.1:1'}}"))
parts = ["pool", "routing", "access", "limits", "ledger", "assembly", "replicas", "reloading", "migrations", "database"]
found = [name for name in sys.modules if any(name.startswith(f"enginebay.gateway.{part}") for part in parts)]
found += [name for name in ("sqlalchemy", "alembic", "redis", "limits", "torch") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
