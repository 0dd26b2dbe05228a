import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginebay.config.gateway_limits import KeyLimitSet, LimitsConfig, LimitSet
from enginebay.errors import AuthenticationFailed, EngineBayError, PermissionDenied, RateLimited
from enginebay.gateway.access.authentication import Authentication
from enginebay.gateway.access.cached_keys import CachedKeys
from enginebay.gateway.access.doors import CountedDoor, KeyDoor, LoopbackDoor, is_loopback
from enginebay.gateway.access.keys import new_key_id, new_key_text
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.call import Client
from enginebay.gateway.database import Database, open_database
from enginebay.gateway.doorkeeper import Doorkeeper
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.limits.requests import RequestLimits, RequestStore
from enginebay.testing.fake_clock import FakeClock


class Request:
    """As much of an exchange as a door looks at."""

    def __init__(self, address: str, text: str | None, *others: tuple[bytes, bytes]) -> None:
        self.client = Client(address=address)
        self.answer_headers: list[tuple[bytes, bytes]] = []
        self._headers = dict(others) if text is None else {b"authorization": f"Bearer {text}".encode()}
        self.scope = {"headers": [*self._headers.items()]}

    def header(self, name: bytes) -> bytes | None:
        return self._headers.get(name)


def knock(
    door: Doorkeeper,
    text: str | None = None,
    *others: tuple[bytes, bytes],
    address: str = "10.0.0.1",
    scope: str = "inference",
) -> object:
    """The client who was let in, or the error. others: headers."""

    async def main() -> object:
        request: Exchange = Request(address, text, *others)  # pyright: ignore[reportAssignmentType]
        try:
            return await door.let_in(request, scope)
        except EngineBayError as error:
            return error

    return asyncio.run(main())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/keys.db")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


def key_door(store: KeyStore, config: LimitsConfig | None = None, *, failures_per_minute: int = 3) -> KeyDoor:
    clock = FakeClock()
    keys = CachedKeys(store, clock=clock)
    counts = RequestLimits(
        config or LimitsConfig(), RequestStore.in_memory(clock), failures_per_minute=failures_per_minute
    )
    return KeyDoor(Authentication(keys), counts)


def test_a_key_opens_the_door_from_anywhere_and_no_key_from_nowhere(store: KeyStore) -> None:
    made = store.create("ci", scopes=["inference"])
    door = key_door(store)
    client = knock(door, made.text, address="203.0.113.9")
    assert isinstance(client, Client)
    assert client.key_id == made.record.key_id
    assert isinstance(knock(door, address="127.0.0.1"), AuthenticationFailed)


@pytest.mark.parametrize(
    ("scopes", "asked", "is_let_in"),
    [
        (["inference"], "inference", True),
        (["inference"], "metrics", False),
        (["metrics"], "metrics", True),
        (["metrics"], "inference", False),
        (["admin"], "metrics", True),
        (["admin"], "inference", True),
        ([], "inference", False),
    ],
)
def test_a_key_opens_only_what_its_scopes_name(store: KeyStore, scopes: list[str], asked: str, is_let_in: bool) -> None:
    made = store.create("ci", scopes=scopes)
    answer = knock(key_door(store), made.text, scope=asked)
    assert isinstance(answer, Client if is_let_in else PermissionDenied)


def test_who_knocks_with_wrong_keys_is_soon_refused_also_with_a_right_one(store: KeyStore) -> None:
    made = store.create("ci", scopes=["inference"])
    door = key_door(store, failures_per_minute=3)
    answers = [knock(door, new_key_text(new_key_id())) for _ in range(4)]
    assert [type(answer) for answer in answers] == [AuthenticationFailed] * 3 + [RateLimited]
    assert isinstance(knock(door, made.text), RateLimited)
    assert isinstance(knock(door, made.text, address="10.0.0.2"), Client)


def test_a_right_key_is_no_failure(store: KeyStore) -> None:
    made = store.create("ci", scopes=["inference"])
    door = key_door(store, failures_per_minute=3)
    assert all(isinstance(knock(door, made.text), Client) for _ in range(10))


def test_requests_are_limited_by_key_and_by_address(store: KeyStore) -> None:
    made, other = store.create("ci", scopes=["inference"]), store.create("other", scopes=["inference"])
    limits = LimitsConfig(key=KeyLimitSet(requests_per_minute=2), address=LimitSet(requests_per_minute=3))
    door = key_door(store, limits)
    assert [isinstance(knock(door, made.text), Client) for _ in range(3)] == [True, True, False]
    assert isinstance(knock(door, other.text), RateLimited)  # the address has had its three
    assert isinstance(knock(door, other.text, address="10.0.0.2"), Client)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_without_keys_this_machine_is_served(address: str) -> None:
    assert is_loopback(address)
    assert isinstance(knock(LoopbackDoor(), address=address), Client)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "0.0.0.0", "::", "::ffff:10.0.0.1", "fe80::1%lo", "", "localhost", "127.1"]
)
def test_without_keys_nobody_else_is_served_and_the_reason_is_told(address: str) -> None:
    error = knock(LoopbackDoor(), address=address)
    assert isinstance(error, PermissionDenied)
    assert "enginebay keys create" in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"forwarded", b"for=127.0.0.1"),
        (b"x-real-ip", b"127.0.0.1"),
        (b"via", b"1.1 proxy"),
        (b"origin", b"http://evil.example:8000"),
        (b"origin", b"null"),
        (b"origin", b"http://127.0.0.1.evil.example"),
        (b"origin", b"http://[::1"),
        (b"host", b"evil.example:8000"),  # whose owner has let it point to 127.0.0.1
        (b"host", b"127.0.0.1.evil.example"),
        (b"sec-fetch-site", b"cross-site"),
    ],
)
def test_without_keys_nothing_of_a_proxy_or_of_a_foreign_page_is_served(name: bytes, value: bytes) -> None:
    error = knock(LoopbackDoor(), None, (name, value), address="127.0.0.1")
    assert isinstance(error, PermissionDenied)
    assert "this gateway has no API keys" in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"origin", b"http://localhost:3000"),
        (b"origin", b"http://127.0.0.1:8000"),
        (b"origin", b"http://[::1]:1"),
        (b"host", b"127.0.0.1:8000"),
        (b"host", b"[::1]:8000"),
        (b"host", b"[::1]"),
        (b"host", b"localhost"),
        (b"host", b"workstation:8000"),
        (b"host", b"app.localhost:8000"),
        (b"sec-fetch-site", b"same-origin"),
        (b"sec-fetch-site", b"none"),
    ],
)
def test_without_keys_a_page_of_this_machine_is_served(name: bytes, value: bytes) -> None:
    assert isinstance(knock(LoopbackDoor(), None, (name, value), address="127.0.0.1"), Client)


def test_without_keys_requests_are_limited_by_address_alone() -> None:
    limits = LimitsConfig(address=LimitSet(requests_per_minute=2), key=KeyLimitSet(requests_per_minute=1))
    door = CountedDoor(LoopbackDoor(), RequestLimits(limits, RequestStore.in_memory(FakeClock())))
    answers = [knock(door, address="127.0.0.1") for _ in range(3)]
    assert [isinstance(answer, Client) for answer in answers] == [True, True, False]
