"""The ledger behind the routes: what is in the journal when a client has its answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asgi_client import living, post, settle
from opened_ledger import opened, rows_of

from enginebay.errors import EngineDied
from enginebay.gateway.app import build_app
from enginebay.gateway.ledger.entry import decode_entry
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend
from enginebay.testing.fake_backend import FakeBackend, Stall, say_tokens
from enginebay.testing.fake_clock import FakeClock

FIELDS = {"model": "assistant", "prompt": "one two three", "max_tokens": 5}


def outcomes_in(journal: Path) -> list[str]:
    lines = journal.read_bytes().splitlines()
    return [entry.outcome for line in lines if (entry := decode_entry(line)) is not None]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("ending", "outcome"), [(None, "finished"), (EngineDied("gone"), "failed")], ids=["finished", "failed"]
)
def test_the_entry_is_in_the_journal_before_the_last_byte_is_sent(tmp_path, stream, ending, outcome) -> None:
    written_at_last_byte: list[list[str]] = []

    async def main() -> None:
        clock = FakeClock(100.0)
        script = say_tokens if ending is None else lambda request: [*say_tokens(request)[:4], ending]
        backend = GuardedBackend(FakeBackend(script=script, clock=clock))
        with opened(tmp_path) as ledger:
            [journal] = ledger.segments
            app = build_app(
                backend,
                served_name="assistant",
                clock=clock,
                log=make_logger(level="critical"),
                hooks=[ledger.hook],
            )

            def at_message(message) -> None:
                if not message.get("more_body", True):
                    written_at_last_byte.append(outcomes_in(journal))

            async def ask() -> None:
                exchange = post(app, "/v1/completions", {**FIELDS, "stream": stream})
                exchange.on_message = at_message
                await exchange.task

            async with living(app):
                await clock.run(ask())

    asyncio.run(main())
    assert written_at_last_byte == [[outcome]]
    assert [row["outcome"] for row in rows_of(f"sqlite:///{tmp_path}/ledger.db")] == [outcome]


def test_a_client_that_leaves_has_its_row_with_the_tokens_that_came(tmp_path) -> None:
    async def main() -> None:
        clock = FakeClock(100.0)
        backend = FakeBackend(script=lambda request: [*say_tokens(request)[:6], Stall()], clock=clock)
        with opened(tmp_path) as ledger:
            app = build_app(
                GuardedBackend(backend),
                served_name="assistant",
                clock=clock,
                log=make_logger(level="critical"),
                hooks=[ledger.hook],
            )

            async def ask() -> None:
                exchange = post(app, "/v1/completions", {**FIELDS, "stream": True})
                await settle()
                exchange.leave()
                await exchange.task

            async with living(app):
                await clock.run(ask())

    asyncio.run(main())
    [row] = rows_of(f"sqlite:///{tmp_path}/ledger.db")
    num_tokens = row["num_output_tokens"]
    assert (row["outcome"], num_tokens, row["num_unbilled_tokens"]) == ("cancelled", 3, None)
    assert row["cost_nano"] == num_tokens * 2000 + row["num_prompt_tokens"] * 500
