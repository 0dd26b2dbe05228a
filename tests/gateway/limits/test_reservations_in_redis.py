import asyncio
import io
import random
from itertools import count

import pytest
from redis.asyncio import Redis

from enginebay.errors import StoreUnavailable
from enginebay.gateway.limits.in_memory import MemoryReservations
from enginebay.gateway.limits.in_redis import RedisReservations
from enginebay.gateway.limits.reservations import FOR_EVER, Allowance, Demand, Hold, Refusal
from enginebay.gateway.logs import make_logger
from enginebay.testing.fake_clock import FakeClock

NUM_CLIENTS = 200
serials = count()


def reservations_at(url: str, *, prefix: str, lease_s: float = 3600.0) -> RedisReservations:
    return RedisReservations(Redis.from_url(url), log=make_logger(io.StringIO()), prefix=prefix, lease_s=lease_s)


@pytest.fixture
def prefix() -> str:
    return f"test{next(serials)}"


@pytest.mark.redis
def test_two_gateways_and_200_clients_never_exceed_a_limit_by_one_token_or_request(redis_url: str, prefix: str) -> None:
    tokens = Allowance("key:a", "tokens a minute", "tokens", 20_000, 60)
    at_once = Allowance("key:a", "requests at the same time", "requests", 30, 0)
    rng = random.Random(5)
    held = {tokens: 0, at_once: 0}
    used = 0
    num_granted = num_refused = 0

    async def client(gateway: RedisReservations, name: int) -> None:
        nonlocal used, num_granted, num_refused
        for serial in range(10):
            demands = [Demand(at_once, 1), Demand(tokens, rng.randrange(1, 200))]
            hold = Hold(f"{name}-{serial}", demands)
            if await gateway.reserve(hold) is not None:
                num_refused += 1
                continue
            num_granted += 1
            for demand in demands:
                held[demand.allowance] += demand.amount
            assert held[at_once] <= at_once.limit
            assert held[tokens] + used <= tokens.limit
            await asyncio.sleep(0)
            for demand in demands:
                held[demand.allowance] -= demand.amount
            actual = rng.randrange(demands[1].amount + 1)
            used += actual
            gateway.settle(hold, [0, actual])

    async def main() -> None:
        gateways = [reservations_at(redis_url, prefix=prefix) for _ in range(2)]
        await asyncio.gather(*(client(gateways[name % 2], name) for name in range(NUM_CLIENTS)))
        for gateway in gateways:
            await gateway.aclose()
        redis = Redis.from_url(redis_url, decode_responses=True)
        accounts = {key: await redis.hgetall(key) for key in await redis.keys(f"{prefix}:*:[0-9]*[0-9]")}
        leases = [key for key in await redis.keys(f"{prefix}:*:leases") if await redis.zcard(key)]
        await redis.aclose()
        assert leases == []
        assert {int(account["held"]) for account in accounts.values()} == {0}
        settled = sum(int(value) for account in accounts.values() for name, value in account.items() if name != "held")
        assert settled == used

    asyncio.run(main())
    assert num_granted > 100
    assert num_refused > 100  # else nothing was held back


ALLOWANCES = (
    Allowance("key:a", "tokens a minute", "tokens", 100, 60),
    Allowance("key:a", "requests at the same time", "requests", 3, 0),
    Allowance("key:a", "budget of the month", "cost_nano", 2**50, FOR_EVER, since_unix=1_793_000_000),
)


@pytest.mark.redis
@pytest.mark.parametrize("seed", range(5))
def test_redis_and_memory_decide_alike(redis_url: str, prefix: str, seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        redis, memory = reservations_at(redis_url, prefix=prefix), MemoryReservations(clock=FakeClock(now=1e9))
        running: list[Hold] = []
        for allowance in ALLOWANCES:
            await redis.seed(allowance, 7)
            await memory.seed(allowance, 7)
        for serial in range(60):
            amounts = rng.choice([5, 30]), 1, rng.randrange(2**48)
            hold = Hold(str(serial), [Demand(*pair) for pair in zip(ALLOWANCES, amounts, strict=True)])
            answers = await redis.reserve(hold), await memory.reserve(hold)
            assert _decision(answers[0]) == _decision(answers[1])
            if answers[0] is None:
                running.append(hold)
            while running and rng.random() < 0.5:
                await _settle_in_both(running.pop(rng.randrange(len(running))), redis, memory, rng)
        await redis.aclose()

    asyncio.run(main())


async def _settle_in_both(hold: Hold, redis: RedisReservations, memory: MemoryReservations, rng: random.Random) -> None:
    used = [rng.randrange(demand.amount // 3 + 1) for demand in hold.demands]
    for _ in range(2):  # the second time does nothing
        redis.settle(hold, used)
        memory.settle(hold, used)
    await redis.settled()


def _decision(refusal: Refusal | None) -> object:
    return None if refusal is None else (refusal.demand, refusal.num_taken)


@pytest.mark.redis
def test_what_a_gateway_that_died_has_reserved_counts_as_used_after_its_lease(redis_url: str, prefix: str) -> None:
    limit = Allowance("key:a", "requests at the same time", "requests", 1, 0)
    tokens = Allowance("key:a", "tokens a minute", "tokens", 10, 60)

    async def main() -> None:
        dead, alive = (reservations_at(redis_url, prefix=prefix, lease_s=lease_s) for lease_s in (0.2, 3600))
        assert await dead.reserve(Hold("1", [Demand(limit, 1), Demand(tokens, 10)])) is None
        assert await alive.reserve(Hold("2", [Demand(limit, 1)])) is not None
        async with asyncio.timeout(10):
            while await alive.reserve(Hold("3", [Demand(limit, 1)])) is not None:
                pass  # each is a round trip; Redis has a clock of its own
        refusal = await alive.reserve(Hold("4", [Demand(tokens, 1)]))
        assert refusal is not None
        assert refusal.num_taken == 10
        assert refusal.retry_after_s is not None
        assert 59 < refusal.retry_after_s <= 61
        dead.settle(Hold("1", [Demand(limit, 1), Demand(tokens, 10)]), [0, 0])  # too late: it has been counted
        await dead.aclose()
        assert await alive.reserve(Hold("5", [Demand(tokens, 1)])) is not None
        await alive.aclose()

    asyncio.run(main())


@pytest.mark.redis
def test_a_client_that_leaves_while_it_reserves_leaves_nothing_held(redis_url: str, prefix: str) -> None:
    limit = Allowance("key:a", "requests at the same time", "requests", 1, 0)

    async def main() -> None:
        gateway = reservations_at(redis_url, prefix=prefix)
        for serial in range(50):
            hold = Hold(str(serial), [Demand(limit, 1)])
            reserving = asyncio.create_task(gateway.reserve(hold))
            for _ in range(serial % 5):
                await asyncio.sleep(0)
            reserving.cancel()
            await asyncio.wait({reserving})
            gateway.settle(hold, [0])
            await gateway.settled()
            probe = Hold(f"probe {serial}", [Demand(limit, 1)])
            assert await gateway.reserve(probe) is None
            gateway.settle(probe, [0])
            await gateway.settled()
        await gateway.aclose()

    asyncio.run(main())


@pytest.mark.redis
def test_keys_in_redis_do_not_outlive_their_use(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        gateway = reservations_at(redis_url, prefix=prefix, lease_s=100)
        hold = Hold("1", [Demand(allowance, 1) for allowance in ALLOWANCES])
        unseeded = await gateway.reserve(hold)
        assert unseeded is not None
        assert unseeded.is_unseeded
        await gateway.seed(ALLOWANCES[2], 1)
        assert await gateway.reserve(hold) is None
        gateway.settle(hold, [1, 0, 1])
        await gateway.aclose()
        redis = Redis.from_url(redis_url, decode_responses=True)
        for key in await redis.keys(f"{prefix}:*"):
            assert 0 < await redis.pttl(key) <= 33 * 86_400_000
        await redis.aclose()

    asyncio.run(main())


@pytest.mark.redis
def test_a_redis_that_lost_its_scripts_is_given_them_again(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        gateway = reservations_at(redis_url, prefix=prefix)
        assert await gateway.reserve(Hold("1", [Demand(ALLOWANCES[1], 1)])) is None
        redis = Redis.from_url(redis_url)
        await redis.script_flush()
        await redis.aclose()
        assert await gateway.reserve(Hold("2", [Demand(ALLOWANCES[1], 1)])) is None
        refusal = await gateway.reserve(Hold("3", [Demand(ALLOWANCES[1], 2)]))
        assert refusal is not None
        assert refusal.num_taken == 2  # neither step ran twice
        await gateway.aclose()

    asyncio.run(main())


def test_redis_that_is_away_is_told_and_lets_nothing_through() -> None:
    async def main() -> None:
        gateway = reservations_at("redis://127.0.0.1:1/0", prefix="none")
        hold = Hold("1", [Demand(ALLOWANCES[0], 1)])
        with pytest.raises(StoreUnavailable, match="Redis cannot be used"):
            await gateway.reserve(hold)
        gateway.settle(hold, [0])  # fails in the background, and says so in the log alone
        await gateway.aclose()

    asyncio.run(main())
