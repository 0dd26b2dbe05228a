import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from enginebay.errors import AuthenticationFailed, StoreUnavailable
from enginebay.gateway.access.authentication import Authentication
from enginebay.gateway.access.cached_keys import REVOKED_WITHIN_S, CachedKeys
from enginebay.gateway.access.keys import hash_of, new_key_id, new_key_text
from enginebay.gateway.access.records import KeptSecret, KeyRecord
from enginebay.testing.fake_clock import FakeClock


class Keys:
    """A source of keys in memory, that can be away, or slow until it is told to go on."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.changes = 0
        self.num_finds = self.num_looks = 0
        self.is_away = False
        self.may_go_on, self.may_look = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.may_look.set()

    def make(self, **given: object) -> str:
        text = new_key_text(key_id := new_key_id())
        record = KeyRecord(
            key_id=key_id,
            name="test",
            scopes=frozenset({"inference"}),
            models=None,
            tier="",
            created_at_unix=0,
            expires_at_unix=None,
            revoked_at_unix=None,
            secrets=(KeptSecret(hash_of(text), 0),),
        )
        self.records[key_id] = replace(record, **given)  # pyright: ignore[reportArgumentType]
        self.changes += 1
        return text

    def revoke(self, text: str) -> None:
        key_id = text.split("-")[1]
        self.records[key_id] = replace(self.records[key_id], revoked_at_unix=1.0)
        self.changes += 1

    def find(self, key_id: str) -> KeyRecord | None:
        self.num_finds += 1
        record = self.records.get(key_id)
        self.may_go_on.wait()
        self._demand_present()
        return record

    def num_changes(self) -> int:
        self.num_looks += 1
        self.may_look.wait()
        self._demand_present()
        return self.changes

    def _demand_present(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")


class Door:
    def __init__(self, *, num_cached: int = 100) -> None:
        self.clock, self.keys, self.now_unix = FakeClock(), Keys(), 100.0
        self.cached = CachedKeys(self.keys, clock=self.clock, num_cached=num_cached, trusted_without_source_s=30)
        self.authentication = Authentication(self.cached, unix_time=lambda: self.now_unix)

    async def knows(self, text: str) -> bool:
        try:
            await self.authentication.client(f"Bearer {text}".encode(), "10.0.0.1")
        except AuthenticationFailed:
            return False
        return True


async def until(is_so: Callable[[], bool]) -> None:
    """Threads work meanwhile; the test's own time-out is the bound."""
    while not is_so():  # noqa: ASYNC110 - what changes it runs in a thread
        await asyncio.sleep(0)


def run(scenario: Callable[[Door], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        door = Door(**options)
        try:
            await scenario(door)
        finally:
            door.keys.may_go_on.set()
            door.keys.may_look.set()
            await door.authentication.aclose()

    asyncio.run(main())


def test_a_key_tells_who_asks_and_what_they_may() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make(scopes=frozenset({"metrics"}), models=frozenset({"small"}), tier="gold")
        client = await door.authentication.client(f"bearer {text}".encode(), "10.0.0.1")
        assert (client.address, client.key_id) == ("10.0.0.1", text.split("-")[1])
        assert (client.scopes, client.models, client.tier) == ({"metrics"}, {"small"}, "gold")

    run(scenario)


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer ", b"Basic dXNlcjpw", b"Bearer eb-0-x", b"Bearer \xff\xfe", b"x" * 10**6]
)
def test_a_request_without_a_key_of_ours_is_refused_without_a_look_into_the_database(header: bytes | None) -> None:
    async def scenario(door: Door) -> None:
        with pytest.raises(AuthenticationFailed):
            await door.authentication.client(header, "10.0.0.1")
        assert door.keys.num_finds == 0

    run(scenario)


def test_a_wrong_secret_of_a_known_key_an_unknown_key_and_an_expired_one_are_told_alike() -> None:
    async def scenario(door: Door) -> None:
        known = door.keys.make()
        wrong = new_key_text(known.split("-")[1])
        expired = door.keys.make(expires_at_unix=100.0)
        messages: set[str] = set()
        for text in (wrong, new_key_text(new_key_id()), expired):
            with pytest.raises(AuthenticationFailed) as raised:
                await door.authentication.client(f"Bearer {text}".encode(), "10.0.0.1")
            messages.add(str(raised.value))
        assert len(messages) == 1
        assert known not in messages.pop()

    run(scenario)


def test_a_key_in_use_is_read_once_and_so_is_one_that_does_not_exist() -> None:
    async def scenario(door: Door) -> None:
        good, bad = door.keys.make(), new_key_text(new_key_id())
        for _ in range(10):
            assert await door.knows(good)
            assert not await door.knows(bad)
        assert door.keys.num_finds == 2

    run(scenario)


def test_a_hundred_first_requests_of_one_key_read_it_once() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        assert all(await asyncio.gather(*(door.knows(text) for _ in range(100))))
        assert door.keys.num_finds == 1

    run(scenario)


def test_a_client_that_leaves_while_its_key_is_read_takes_the_answer_from_nobody() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        door.keys.may_go_on.clear()
        first, second = (asyncio.create_task(door.knows(text)) for _ in range(2))
        await until(lambda: door.keys.num_finds == 1)
        first.cancel()
        await asyncio.wait({first})
        door.keys.may_go_on.set()
        assert await second

    run(scenario)


def test_a_revoked_key_is_refused_within_a_second() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        assert await door.knows(text)
        door.keys.revoke(text)
        door.clock.advance(REVOKED_WITHIN_S + 0.001)
        assert not await door.knows(text)

    run(scenario)


def test_a_key_that_is_made_later_is_known_within_a_second() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        record = door.keys.records.pop(text.split("-")[1])
        assert not await door.knows(text)
        door.keys.records[record.key_id] = record
        door.keys.changes += 1
        door.clock.advance(REVOKED_WITHIN_S + 0.001)
        assert await door.knows(text)

    run(scenario)


def test_an_expired_key_is_refused_at_once_although_nothing_changed_in_the_database() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make(expires_at_unix=101.0)
        assert await door.knows(text)
        door.now_unix = 101.0
        assert not await door.knows(text)

    run(scenario)


def test_under_steady_traffic_no_request_waits_for_the_look_into_the_database() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        assert await door.knows(text)
        for _ in range(20):
            door.clock.advance(0.3)
            waiting = asyncio.create_task(door.knows(text))
            await asyncio.sleep(0)
            assert waiting.done()
            await until(lambda: door.cached.is_looking_done)
        assert 5 <= door.keys.num_looks <= 12

    run(scenario)


def test_a_key_that_was_read_before_it_was_revoked_does_not_stay_in_memory() -> None:
    async def scenario(door: Door) -> None:
        text, other = door.keys.make(), door.keys.make()
        assert await door.knows(other)
        door.keys.may_go_on.clear()
        reading = asyncio.create_task(door.knows(text))
        await until(lambda: door.keys.num_finds == 2)
        door.keys.revoke(text)  # after it was read, before it arrived
        door.clock.advance(REVOKED_WITHIN_S + 0.001)
        assert await door.knows("eb-nothing") is False
        looking = asyncio.create_task(door.knows(other))
        await until(lambda: door.keys.num_looks == 2)
        door.keys.may_go_on.set()
        await asyncio.gather(reading, looking)
        assert not await door.knows(text)

    run(scenario)


def test_while_the_database_is_away_known_keys_are_trusted_for_a_while_and_no_longer() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        assert await door.knows(text)
        door.keys.is_away = True
        door.clock.advance(29)
        assert await door.knows(text)
        with pytest.raises(StoreUnavailable):
            await door.knows(new_key_text(new_key_id()))
        door.clock.advance(2)
        with pytest.raises(StoreUnavailable):
            await door.knows(text)
        door.keys.is_away = False
        door.clock.advance(1)
        assert await door.knows(text)

    run(scenario)


def test_a_database_that_hangs_holds_up_the_first_request_alone() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        assert await door.knows(text)
        door.keys.may_look.clear()
        door.clock.advance(2)
        first = asyncio.create_task(door.knows(text))
        await until(lambda: door.keys.num_looks == 2)
        door.clock.advance(1.1)
        async with asyncio.timeout(REVOKED_WITHIN_S / 2):
            assert await door.knows(text)
        assert await first

    run(scenario)


def test_memory_is_bounded_and_strangers_push_out_no_known_key() -> None:
    async def scenario(door: Door) -> None:
        text = door.keys.make()
        assert await door.knows(text)
        for _ in range(50):
            assert not await door.knows(new_key_text(new_key_id()))
        assert door.cached.num_in_memory <= 2 * 10
        num_finds = door.keys.num_finds
        assert await door.knows(text)
        assert door.keys.num_finds == num_finds

    run(scenario, num_cached=10)
