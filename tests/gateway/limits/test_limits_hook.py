import asyncio
import io
import random
import tracemalloc
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from enginebay.config.gateway_limits import BudgetConfig, KeyLimitSet, LimitsConfig, LimitSet
from enginebay.errors import BudgetExceeded, EngineBayError, InvalidRequest, RateLimited
from enginebay.gateway.call import Call, Client, Outcome, OutcomeKind
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.ledger.prices import Price, Prices
from enginebay.gateway.limits.budgets import Budgets, Period, period_begin, period_end
from enginebay.gateway.limits.demands import CallDemands, most_tokens, used_tokens
from enginebay.gateway.limits.hook import LimitsHook
from enginebay.gateway.limits.in_memory import MemoryReservations
from enginebay.gateway.limits.in_redis import RedisReservations
from enginebay.gateway.logs import make_logger
from enginebay.testing.fake_clock import FakeClock
from enginebay.types import GenerationRequest, SamplingParams, Text
from enginebay.wire.openai_errors import error_headers

NANO = 10**9
NOON_UNIX = 1_795_262_400.0  # 2026-11-21 12:00 UTC
PRICES = Prices({"small": Price.per_million(prompt=1000, cached=None, output=2000)}, currency="EUR")


class Spent:
    """What the ledger knows before the gateway starts."""

    def __init__(self, **nano: int) -> None:
        self.nano = nano
        self.asked: list[tuple[str, float]] = []

    def spent_nano(self, key_id: str, *, since_unix: float) -> int:
        self.asked.append((key_id, since_unix))
        return self.nano.get(key_id, 0)


class Limited:
    def __init__(self, config: LimitsConfig, *, spent: Spent | None = None) -> None:
        self.clock, self.now_unix, self.spent = FakeClock(), NOON_UNIX, spent or Spent()
        self.reservations = MemoryReservations(clock=self.clock)
        budgets = Budgets(
            config, PRICES, self.spent, self.reservations, clock=self.clock, unix_time=lambda: self.now_unix
        )
        self.hook = LimitsHook(CallDemands(config), self.reservations, budgets=budgets)
        self.hooks = Hooks([self.hook], make_logger(io.StringIO()))

    def begin(self, call: Call) -> EngineBayError | None:
        async def begin() -> EngineBayError | None:
            try:
                await self.hook.before_routing(call)
            except EngineBayError as error:
                return error
            return None

        return asyncio.run(begin())

    def end(self, call: Call, kind: OutcomeKind = "finished", *, num_prompt: int = 0, num_output: int = 0) -> None:
        self.hook.at_end(call, outcome(kind, num_prompt=num_prompt, num_output=num_output))


def outcome(kind: OutcomeKind, *, num_prompt: int = 0, num_output: int = 0) -> Outcome:
    return Outcome(
        kind=kind,
        error_code=None,
        num_prompt_tokens=num_prompt,
        num_cached_tokens=None,
        num_output_tokens=num_output,
        num_unbilled_tokens=None,
        ended_at=0,
    )


def a_call(
    key_id: str | None = "a",
    *,
    num_prompt: int | None = 10,
    max_tokens: int = 20,
    num_choices: int = 1,
    body_bytes: int = 200,
    tier: str = "",
    model: str = "small",
    address: str = "10.0.0.1",
) -> Call:
    request = GenerationRequest(request_id="r", prompt=Text("x"), sampling=SamplingParams(max_tokens=max_tokens))
    return Call(
        request_id="r",
        client=Client(address=address, key_id=key_id, tier=tier),
        model=model,
        requests=[request] * num_choices,
        arrived_at=0,
        body_bytes=body_bytes,
        num_prompt_tokens=num_prompt,
    )


def test_a_call_reserves_its_prompt_and_all_that_its_choices_may_answer() -> None:
    assert most_tokens(a_call(num_prompt=10, max_tokens=20, num_choices=3)) == 70


def test_where_the_prompt_is_not_counted_the_bytes_of_the_body_stand_in() -> None:
    assert most_tokens(a_call(num_prompt=None, body_bytes=200, max_tokens=20)) == 220


@pytest.mark.parametrize(
    ("kind", "num_output", "used"),
    [("finished", 5, 15), ("cancelled", 5, 15), ("cancelled", 0, 10), ("refused", 0, 0), ("failed", 0, 0)],
)
def test_what_counts_as_used_follows_the_outcome(kind: OutcomeKind, num_output: int, used: int) -> None:
    assert used_tokens(outcome(kind, num_prompt=10, num_output=num_output)) == used


def test_a_call_that_fails_after_its_first_token_has_used_what_arrived() -> None:
    assert used_tokens(outcome("failed", num_prompt=10, num_output=3)) == 13


def test_what_was_reserved_and_not_used_is_there_for_the_next_call() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(tokens_per_minute=50)))
    first, second, third = a_call(), a_call(), a_call()
    assert limited.begin(first) is None
    refused = limited.begin(second)
    assert isinstance(refused, RateLimited)
    assert "50 tokens a minute" in str(refused)
    limited.end(first, num_prompt=10, num_output=2)
    assert limited.begin(third) is None
    assert limited.hook.num_held == 1


def test_a_call_that_could_never_fit_is_told_so_and_not_to_come_back() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(tokens_per_minute=29)))
    error = limited.begin(a_call())
    assert isinstance(error, InvalidRequest)
    assert "30" in str(error)
    assert "lower max_tokens" in str(error)


def test_calls_of_one_key_run_at_the_same_time_only_so_many_and_those_of_another_beside_them() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(concurrent_requests=2)))
    running = [a_call(), a_call()]
    assert [limited.begin(call) for call in running] == [None, None]
    assert isinstance(limited.begin(a_call()), RateLimited)
    assert limited.begin(a_call("b")) is None
    limited.end(running[0], "cancelled")
    assert limited.begin(a_call()) is None


def test_an_address_is_limited_whatever_keys_it_uses() -> None:
    limited = Limited(LimitsConfig(address=LimitSet(concurrent_requests=1)))
    assert limited.begin(a_call("a")) is None
    error = limited.begin(a_call("b"))
    assert isinstance(error, RateLimited)
    assert "this address" in str(error)
    assert limited.begin(a_call("a", address="10.0.0.2")) is None


def test_a_client_without_a_key_has_its_address_alone() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(tokens_per_minute=1), address=LimitSet(concurrent_requests=1)))
    assert limited.begin(a_call(None)) is None


def test_a_tier_replaces_the_limits_of_keys_and_an_unknown_one_does_not_lift_them() -> None:
    config = LimitsConfig(key=KeyLimitSet(tokens_per_minute=30), tiers={"gold": KeyLimitSet(tokens_per_minute=300)})
    limited = Limited(config)
    assert limited.begin(a_call("g", max_tokens=250, tier="gold")) is None
    assert isinstance(limited.begin(a_call("u", max_tokens=250, tier="no longer there")), InvalidRequest)


def test_the_most_that_a_call_can_cost_is_reserved_and_what_it_cost_is_kept() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=0.1, per="month"))))
    first, second = a_call(), a_call()  # each at most 10 * 0.001 + 20 * 0.002 = 0.05
    assert limited.begin(first) is None
    assert limited.begin(second) is None
    error = limited.begin(a_call())
    assert isinstance(error, BudgetExceeded)
    assert "has 0 left" in str(error)
    limited.end(first, num_prompt=10, num_output=20)  # all of it
    limited.end(second, num_prompt=10, num_output=0)  # 0.01
    assert isinstance(limited.begin(a_call()), BudgetExceeded)  # 0.04 are left
    assert limited.begin(a_call(max_tokens=15)) is None


def test_a_restart_forgives_nothing_and_a_new_month_everything() -> None:
    config = LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=0.1, per="month")))
    limited = Limited(config, spent=Spent(a=NANO // 10))
    assert isinstance(limited.begin(a_call()), BudgetExceeded)
    assert limited.spent.asked == [("a", period_begin(NOON_UNIX, "month").timestamp())]
    assert limited.begin(a_call("b")) is None
    limited.spent.nano = {}
    limited.now_unix += 10 * 86_400
    assert limited.begin(a_call()) is None


def test_the_ledger_is_asked_once_for_each_key_and_period() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=5, per="day"))))

    async def main() -> None:
        await asyncio.gather(*(limited.hook.before_routing(a_call()) for _ in range(20)))

    asyncio.run(main())
    assert len(limited.spent.asked) == 1


@pytest.mark.redis
def test_a_redis_that_lost_everything_is_told_again_what_was_spent(redis_url: str) -> None:
    config = LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=0.1, per="day")))

    async def main() -> None:
        redis, spent = Redis.from_url(redis_url), Spent(a=1)
        reservations = RedisReservations(redis, log=make_logger(io.StringIO()), prefix="budgets")
        budgets = Budgets(config, PRICES, spent, reservations, clock=FakeClock(), unix_time=lambda: NOON_UNIX)
        hook = LimitsHook(CallDemands(config), reservations, budgets=budgets)
        first = a_call()
        await hook.before_routing(first)
        hook.at_end(first, outcome("finished", num_prompt=10))
        await reservations.settled()
        spent.nano["a"] = NANO // 10  # as the ledger has it by now
        await redis.delete(*await redis.keys("budgets:*"))
        with pytest.raises(BudgetExceeded):
            await hook.before_routing(a_call())
        assert len(spent.asked) == 2
        await reservations.aclose()

    asyncio.run(main())


def test_a_model_without_a_price_is_for_no_key_with_a_budget() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=5, per="day"))))
    error = limited.begin(a_call(model="unpriced"))
    assert isinstance(error, BudgetExceeded)
    assert "no price" in str(error)
    assert limited.begin(a_call(None, model="unpriced")) is None


def test_periods_begin_at_midnight_utc() -> None:
    assert period_begin(NOON_UNIX, "day").isoformat() == "2026-11-21T00:00:00+00:00"
    assert period_begin(NOON_UNIX, "month").isoformat() == "2026-11-01T00:00:00+00:00"


def test_whatever_ends_a_call_nothing_stays_reserved() -> None:
    budget = BudgetConfig(amount=100, per="day")
    limits = KeyLimitSet(tokens_per_minute=200, concurrent_requests=5, budget=budget)
    limited = Limited(LimitsConfig(key=limits, address=LimitSet(tokens_per_day=10**6)))
    rng = random.Random(2)
    ends: dict[str, int] = {}

    async def one(number: int) -> None:
        call = a_call(rng.choice("abc"))
        entered = limited.hooks.entering()
        kind: OutcomeKind = rng.choice(["finished", "failed", "cancelled"])
        try:
            await entered.before_routing(call)
            await asyncio.sleep(0)
        except EngineBayError:
            kind = "refused"
        except asyncio.CancelledError:
            kind = "cancelled"
        entered.at_end(call, outcome(kind, num_prompt=10, num_output=rng.randrange(20)))
        entered.at_end(call, outcome("finished", num_prompt=10, num_output=20))  # never counts
        ends[kind] = ends.get(kind, 0) + 1

    async def main() -> None:
        tasks = [asyncio.create_task(one(number)) for number in range(300)]
        for task in tasks[::7]:
            asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert limited.hook.num_held == limited.reservations.num_held == 0
    assert set(ends) == {"finished", "failed", "cancelled", "refused"}
    limited.clock.advance(100)
    assert limited.begin(a_call(max_tokens=190)) is None


def told(call: Call) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in call.answer_headers}


def test_answers_and_refusals_tell_of_the_tokens_that_are_left() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(tokens_per_minute=50, tokens_per_day=1000)))
    first, second = a_call(), a_call()
    assert limited.begin(first) is None
    assert isinstance(limited.begin(second), RateLimited)
    for call in (first, second):
        assert told(call) == {
            "x-ratelimit-limit-tokens": "50",
            "x-ratelimit-remaining-tokens": "20",
            "x-ratelimit-reset-tokens": "1m0s",
        }


def test_without_a_limit_of_tokens_nothing_is_told_of_them() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(concurrent_requests=1)))
    first, second = a_call(), a_call()
    limited.begin(first)
    assert isinstance(limited.begin(second), RateLimited)
    assert told(first) == told(second) == {}


def test_a_spent_budget_tells_when_its_next_period_begins_and_not_to_come_back_at_once() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=0.05, per="day"))))
    assert limited.begin(a_call()) is None
    error = limited.begin(a_call())
    assert isinstance(error, BudgetExceeded)
    assert error_headers(error) == [(b"x-should-retry", b"false"), (b"retry-after", b"43200")]
    never = limited.begin(a_call(max_tokens=1000))
    assert isinstance(never, BudgetExceeded)
    assert error_headers(never) == [(b"x-should-retry", b"false")]


@pytest.mark.parametrize(
    ("begin", "period", "end"),
    [
        ("2026-11-21", "day", "2026-11-22"),
        ("2026-12-31", "day", "2027-01-01"),
        ("2026-02-01", "month", "2026-03-01"),
        ("2026-12-01", "month", "2027-01-01"),
    ],
)
def test_periods_end_where_the_next_begins(begin: str, period: Period, end: str) -> None:
    began = datetime.fromisoformat(begin).replace(tzinfo=UTC)
    assert period_end(began, period).date().isoformat() == end
    assert period_begin(period_end(began, period).timestamp() - 1, period) == began


def test_a_call_is_charged_to_the_period_of_its_arrival_as_in_the_ledger() -> None:
    limited = Limited(LimitsConfig(key=KeyLimitSet(budget=BudgetConfig(amount=5, per="day"))))
    limited.clock.advance(30)  # so long its body took
    limited.now_unix = NOON_UNIX + 43_200 + 10
    assert limited.begin(a_call()) is None
    assert limited.spent.asked == [("a", NOON_UNIX - 43_200)]


def test_what_is_kept_of_limits_does_not_grow_with_pairs_of_keys_and_addresses() -> None:
    limits = LimitSet(tokens_per_minute=1000, tokens_per_day=10_000, concurrent_requests=10)
    demands = CallDemands(LimitsConfig(key=KeyLimitSet(tokens_per_minute=1000), address=limits))
    tracemalloc.start()
    try:
        for index in range(10_000):
            call = a_call(f"k{index % 100}", address=f"10.0.0.{index // 100}")
            assert len(demands.of(call, 1)) == 4
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1_000_000
