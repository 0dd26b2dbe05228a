import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from enginebay.gateway.limits.in_memory import MemoryReservations
from enginebay.gateway.limits.reservations import FOR_EVER, NUM_SLOTS, RETENTION_S, Allowance, Demand, Hold, Refusal
from enginebay.testing.fake_clock import FakeClock

MINUTE = Allowance("key:a", "tokens a minute", "tokens", 100, 60)
AT_ONCE = Allowance("key:a", "requests at the same time", "requests", 2, 0)
MONTH = Allowance("key:a", "budget of the month", "cost_nano", 100, FOR_EVER, since_unix=1000)


class Accounts:
    """Memory reservations without the await that they need not have."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reservations = MemoryReservations(clock=self.clock)

    def reserve(self, hold_id: str, *demands: Demand) -> Refusal | None:
        return asyncio.run(self.reservations.reserve(Hold(hold_id, demands)))

    def settle(self, hold_id: str, demands: Sequence[Demand], *used: int) -> None:
        self.reservations.settle(Hold(hold_id, demands), used)


def test_what_is_held_has_no_room_for_more_and_is_free_once_it_is_settled_with_nothing() -> None:
    accounts = Accounts()
    assert accounts.reserve("1", Demand(MINUTE, 60)) is None
    refusal = accounts.reserve("2", Demand(MINUTE, 41))
    assert refusal == Refusal(Demand(MINUTE, 41), num_taken=60, retry_after_s=None)
    assert accounts.reserve("3", Demand(MINUTE, 40)) is None
    accounts.settle("1", [Demand(MINUTE, 60)], 0)
    assert accounts.reservations.num_taken(MINUTE) == 40


def test_what_was_used_counts_for_a_window_after_the_end_and_then_drops_out_within_a_slot() -> None:
    accounts = Accounts()
    accounts.reserve("1", Demand(MINUTE, 80))
    accounts.clock.advance(300.9)  # a long answer: held all the while
    assert accounts.reservations.num_taken(MINUTE) == 80
    accounts.settle("1", [Demand(MINUTE, 80)], 30)
    accounts.clock.advance(59.9)
    assert accounts.reservations.num_taken(MINUTE) == 30
    accounts.clock.advance(0.1 + 60 / NUM_SLOTS)
    assert accounts.reservations.num_taken(MINUTE) == 0


def test_a_refusal_says_when_enough_will_have_dropped_out() -> None:
    accounts = Accounts()
    for hold_id in ("1", "2"):
        accounts.reserve(hold_id, Demand(MINUTE, 50))
        accounts.settle(hold_id, [Demand(MINUTE, 50)], 50)
        accounts.clock.advance(10)
    refusal = accounts.reserve("3", Demand(MINUTE, 20))
    assert refusal is not None
    assert refusal.retry_after_s is not None
    accounts.clock.advance(refusal.retry_after_s - 0.01)
    assert accounts.reserve("4", Demand(MINUTE, 20)) is not None
    accounts.clock.advance(0.02)
    assert accounts.reserve("5", Demand(MINUTE, 20)) is None


def test_demands_are_granted_together_or_not_at_all() -> None:
    accounts = Accounts()
    assert accounts.reserve("1", Demand(AT_ONCE, 1), Demand(MINUTE, 90)) is None
    refusal = accounts.reserve("2", Demand(AT_ONCE, 1), Demand(MINUTE, 90))
    assert refusal is not None
    assert refusal.demand.allowance is MINUTE
    assert accounts.reservations.num_taken(AT_ONCE) == 1


def test_a_hold_is_settled_once_and_one_that_was_refused_never() -> None:
    accounts = Accounts()
    demands = [Demand(MINUTE, 60)]
    accounts.reserve("1", *demands)
    accounts.reserve("2", *demands)  # refused
    for hold_id in ("1", "1", "2"):
        accounts.settle(hold_id, demands, 10)
    assert accounts.reservations.num_taken(MINUTE) == 10
    assert accounts.reservations.num_held == 0


def test_concurrency_is_free_the_moment_a_request_ends() -> None:
    accounts = Accounts()
    demands = [Demand(AT_ONCE, 1)]
    assert [accounts.reserve(hold_id, *demands) is None for hold_id in "123"] == [True, True, False]
    accounts.settle("1", demands, 0)
    assert accounts.reserve("4", *demands) is None


def test_an_account_without_end_keeps_everything_and_begins_with_what_was_spent_before() -> None:
    accounts = Accounts()
    asyncio.run(accounts.reservations.seed(MONTH, 70))
    asyncio.run(accounts.reservations.seed(MONTH, 70))  # another gateway's task, or a second first request
    accounts.reserve("1", Demand(MONTH, 20))
    accounts.settle("1", [Demand(MONTH, 20)], 15)
    accounts.clock.advance(30 * 86_400)
    assert accounts.reservations.num_taken(MONTH) == 85
    assert accounts.reserve("2", Demand(MONTH, 16)) is not None


def test_an_account_without_end_lets_nothing_through_before_it_is_told_what_was_spent() -> None:
    accounts = Accounts()
    refusal = accounts.reserve("1", Demand(MONTH, 0))
    assert refusal is not None
    assert refusal.is_unseeded
    next_month = Allowance("key:a", "budget of the month", "cost_nano", 100, FOR_EVER, since_unix=2000)
    asyncio.run(accounts.reservations.seed(MONTH, 0))
    assert accounts.reserve("2", Demand(MONTH, 1)) is None
    assert accounts.reserve("3", Demand(next_month, 1)) is not None


def test_accounts_of_clients_who_have_gone_are_forgotten() -> None:
    accounts = Accounts()
    for client in range(500):
        allowances = [Allowance(f"address:{client}", "", "tokens", 10, window_s) for window_s in (0, 60.0, FOR_EVER)]
        demands = [Demand(allowance, 10) for allowance in allowances]
        asyncio.run(accounts.reservations.seed(allowances[2], 0))
        accounts.reserve(str(client), *demands)
        accounts.settle(str(client), demands, 10, 10, 10)
    assert accounts.reservations.num_accounts >= 1000
    accounts.clock.advance(RETENTION_S + 1)
    for serial in range(500):
        accounts.reserve(f"later {serial}", Demand(MINUTE, 1))
    assert accounts.reservations.num_accounts == 1


def test_a_refused_client_leaves_no_more_behind_than_one_that_was_let_in() -> None:
    accounts = Accounts()
    for client in range(500):
        accounts.reserve(str(client), Demand(Allowance(f"address:{client}", "", "tokens", 10, 60.0), 11))
        accounts.clock.advance(1)
    assert accounts.reservations.num_accounts <= 65


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "settle", "wait"]),
        st.integers(1, 60),  # tokens asked for, or seconds
        st.floats(0, 1),  # share that is used, or which of the open holds
    ),
    max_size=60,
)


@given(_STEPS)
@settings(max_examples=200, deadline=None)
def test_in_no_minute_is_more_used_than_the_limit_and_at_the_end_nothing_is_held(
    steps: list[tuple[str, int, float]],
) -> None:
    accounts = Accounts()
    running: dict[str, tuple[float, int]] = {}  # when it began, and what it holds
    ended: list[tuple[float, float, int]] = []  # tokens that were made somewhere between begin and end

    def settle(hold_id: str, share: float) -> None:
        began_at, amount = running.pop(hold_id)
        used = round(amount * share)
        accounts.settle(hold_id, [Demand(MINUTE, amount)], used)
        ended.append((began_at, accounts.clock.now(), used))

    for serial, (step, number, share) in enumerate(steps):
        if step == "reserve" and accounts.reserve(str(serial), Demand(MINUTE, number)) is None:
            running[str(serial)] = (accounts.clock.now(), number)
        elif step == "settle" and running:
            settle(list(running)[int(share * (len(running) - 1))], share)
        elif step == "wait":
            accounts.clock.advance(number * 0.77)
        held = sum(amount for _, amount in running.values())
        assert held <= accounts.reservations.num_taken(MINUTE) <= MINUTE.limit
    for hold_id in list(running):
        settle(hold_id, 1.0)
    # the worst case: every token made at the begin of its request, or at its end, whatever fills the minute most
    for _, start, _ in ended:
        assert sum(used for began_at, end, used in ended if end >= start and began_at < start + 60) <= MINUTE.limit
    accounts.clock.advance(62)
    assert accounts.reservations.num_taken(MINUTE) == 0
    assert accounts.reservations.num_held == 0
