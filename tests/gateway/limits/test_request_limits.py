import asyncio
from collections.abc import Awaitable, Callable

import pytest

from enginebay.config.gateway_limits import KeyLimitSet, LimitsConfig, LimitSet
from enginebay.errors import RateLimited, StoreUnavailable
from enginebay.gateway.call import Client
from enginebay.gateway.limits.addresses import counted_address
from enginebay.gateway.limits.rate_headers import Left, duration
from enginebay.gateway.limits.request_entries import RequestEntries
from enginebay.gateway.limits.requests import RequestLimits, RequestStore
from enginebay.testing.fake_clock import FakeClock

KEY_A, KEY_B = (Client(address="10.0.0.1", key_id=key_id) for key_id in "ab")
GOLD = Client(address="10.0.0.1", key_id="g", tier="gold")
LIMITS = LimitsConfig(
    key=KeyLimitSet(requests_per_second=2, requests_per_minute=5),
    tiers={"gold": KeyLimitSet(requests_per_minute=20)},
    address=LimitSet(requests_per_minute=3),
)


class Counted:
    def __init__(self, config: LimitsConfig = LIMITS) -> None:
        self.clock = FakeClock(now=1000)
        self.store = RequestStore.in_memory(self.clock)
        self.limits = RequestLimits(config, self.store, failures_per_minute=2)
        self.headers: list[tuple[bytes, bytes]] = []
        """Of the limits that refused."""

    async def key(self, client: Client) -> Left | None:
        return await self.limits.demand_for_key(client, self.headers)

    async def address(self, address: str) -> Left | None:
        return await self.limits.demand_for_address(address, self.headers)

    def lets_in(self, demand: Callable[..., Awaitable[object]], who: object) -> bool:
        return self.refusal(demand, who) is None

    def refusal(self, demand: Callable[..., Awaitable[object]], who: object) -> RateLimited | None:
        async def ask() -> RateLimited | None:
            try:
                await demand(who)
            except RateLimited as error:
                return error
            return None

        return asyncio.run(ask())


def test_in_no_second_and_in_no_minute_is_one_request_more_let_in() -> None:
    counted = Counted()
    let_in_at: list[float] = []
    for _ in range(1000):
        if counted.lets_in(counted.key, KEY_A):
            let_in_at.append(counted.clock.now())
        counted.clock.advance(0.17)
    assert len(let_in_at) > 10
    for start in let_in_at:
        assert sum(start <= at < start + 1 for at in let_in_at) <= 2
        assert sum(start <= at < start + 60 for at in let_in_at) <= 5


def test_a_refusal_says_when_there_is_room_again() -> None:
    counted = Counted()
    assert [counted.lets_in(counted.key, KEY_A) for _ in range(3)] == [True, True, False]
    refusal = counted.refusal(counted.key, KEY_A)
    assert refusal is not None
    assert "2 requests a second" in str(refusal)
    assert refusal.retry_after_s == pytest.approx(1, abs=0.01)
    counted.clock.advance(refusal.retry_after_s + 0.001)
    assert counted.lets_in(counted.key, KEY_A)


def test_each_key_has_its_own_count_and_each_tier_its_own_limit() -> None:
    counted = Counted()
    for _ in range(2):
        assert counted.lets_in(counted.key, KEY_A)
    assert not counted.lets_in(counted.key, KEY_A)
    assert counted.lets_in(counted.key, KEY_B)
    gold = [counted.lets_in(counted.key, GOLD) for _ in range(21)]
    assert gold == [True] * 20 + [False]


def test_an_address_is_counted_whatever_its_keys_are() -> None:
    counted = Counted()
    answers = [counted.lets_in(counted.address, "10.0.0.1") for _ in range(4)]
    assert answers == [True, True, True, False]
    assert counted.lets_in(counted.address, "10.0.0.2")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
        ("no: address", "no: address", True),
    ],
)
def test_a_whole_network_of_ipv6_counts_as_one_address(one: str, other: str, is_same: bool) -> None:
    assert (counted_address(one) == counted_address(other)) is is_same


def test_after_some_wrong_keys_an_address_is_refused_for_the_rest_of_the_minute() -> None:
    counted = Counted()
    for _ in range(2):
        assert counted.lets_in(counted.limits.demand_few_failures, "10.0.0.1")
        asyncio.run(counted.limits.count_failure("10.0.0.1"))
    refusal = counted.refusal(counted.limits.demand_few_failures, "10.0.0.1")
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(60, abs=0.01)
    assert counted.lets_in(counted.limits.demand_few_failures, "10.0.0.2")
    counted.clock.advance(60.1)
    assert counted.lets_in(counted.limits.demand_few_failures, "10.0.0.1")


def test_two_hundred_requests_at_the_same_time_never_pass_a_limit_together() -> None:
    counted = Counted(LimitsConfig(key=KeyLimitSet(requests_per_minute=50)))

    async def main() -> list[object]:
        asked = [counted.key(KEY_A) for _ in range(200)]
        return await asyncio.gather(*asked, return_exceptions=True)

    assert sum(isinstance(answer, Left) for answer in asyncio.run(main())) == 50


def test_addresses_that_have_gone_are_forgotten() -> None:
    counted = Counted()
    assert isinstance(entries := counted.store.storage, RequestEntries)
    for number in range(500):
        counted.lets_in(counted.address, f"10.0.{number // 250}.{number % 250}")
    assert entries.num_keys == 500
    counted.clock.advance(61)
    for number in range(250):
        counted.lets_in(counted.address, f"10.1.0.{number}")
        counted.clock.advance(0.01)
    assert entries.num_keys <= 251


def test_without_limits_nobody_is_counted() -> None:
    counted = Counted(LimitsConfig())
    assert all(counted.lets_in(counted.key, KEY_A) for _ in range(100))
    assert isinstance(entries := counted.store.storage, RequestEntries)
    assert entries.num_keys == 0


@pytest.mark.redis
def test_two_gateways_on_one_redis_let_no_request_too_many_in(redis_url: str) -> None:
    config = LimitsConfig(key=KeyLimitSet(requests_per_minute=50))

    async def main() -> list[object]:
        stores = [RequestStore.in_redis(redis_url, clock=FakeClock()) for _ in range(2)]
        gateways = [RequestLimits(config, store) for store in stores]
        asked = [gateways[number % 2].demand_for_key(KEY_A, []) for number in range(200)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, RateLimited)]
        assert all(0 < refusal.retry_after_s <= 60 for refusal in refusals)
        assert len(refusals) == 150
        for store in stores:
            await store.aclose()
        return list(answers)

    assert sum(isinstance(answer, Left) for answer in asyncio.run(main())) == 50


def test_a_redis_that_is_away_lets_nobody_in() -> None:
    async def main() -> None:
        store = RequestStore.in_redis("redis://127.0.0.1:1/0", clock=FakeClock())
        limits = RequestLimits(LIMITS, store)
        with pytest.raises(StoreUnavailable, match="Redis cannot be used"):
            await limits.demand_for_key(KEY_A, [])
        await store.aclose()

    asyncio.run(main())


def test_what_is_left_is_told_of_the_limit_that_will_be_reached_first() -> None:
    counted = Counted()
    lefts = [asyncio.run(counted.key(KEY_A)) for _ in range(2)]
    assert [left.told.headers(left.num_left) for left in lefts if left is not None] == [
        rate_headers("requests", b"2", b"1", b"1s"),
        rate_headers("requests", b"2", b"0", b"1s"),
    ]
    counted.clock.advance(1.1)
    third = asyncio.run(counted.key(KEY_A))
    assert third is not None
    assert third.told.headers(third.num_left) == rate_headers("requests", b"2", b"1", b"1s")
    counted.clock.advance(1.1)
    fourth = asyncio.run(counted.key(KEY_A))
    assert fourth is not None
    assert fourth.told.headers(fourth.num_left) == rate_headers("requests", b"2", b"1", b"1s")
    fifth = asyncio.run(counted.key(KEY_A))
    assert fifth is not None
    assert fifth.num_left == 0
    counted.clock.advance(1.1)
    assert not counted.lets_in(counted.key, KEY_A)  # the minute's five are gone
    assert counted.headers == rate_headers("requests", b"5", b"0", b"1m0s")


@pytest.mark.redis
def test_redis_tells_as_many_left_as_memory(redis_url: str) -> None:
    config = LimitsConfig(key=KeyLimitSet(requests_per_minute=3))

    async def main() -> None:
        store = RequestStore.in_redis(redis_url, clock=FakeClock())
        limits = RequestLimits(config, store)
        client = Client(address="10.0.0.1", key_id="left")
        lefts = [await limits.demand_for_key(client, []) for _ in range(3)]
        assert [left.num_left for left in lefts if left is not None] == [2, 1, 0]
        headers: list[tuple[bytes, bytes]] = []
        with pytest.raises(RateLimited):
            await limits.demand_for_key(client, headers)
        assert headers == rate_headers("requests", b"3", b"0", b"1m0s")
        await store.aclose()

    asyncio.run(main())


def rate_headers(what: str, limit: bytes, left: bytes, reset: bytes) -> list[tuple[bytes, bytes]]:
    values = {"limit": limit, "remaining": left, "reset": reset}
    return [(f"x-ratelimit-{name}-{what}".encode(), value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1s"), (0.5, "0.5s"), (60, "1m0s"), (86_400, "24h0m0s"), (3_661, "1h1m1s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
