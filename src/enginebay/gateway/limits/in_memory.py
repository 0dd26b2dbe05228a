"""Accounts of one gateway. Nothing here awaits, so the event loop makes each step atomic."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from itertools import islice

from enginebay.clock import Clock
from enginebay.gateway.limits.reservations import FOR_EVER, NUM_SLOTS, Allowance, Demand, Hold, Refusal


class MemoryReservations:
    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, Hold] = {}
        # one for each window, so that the account that was not used for longest is the first that may be forgotten
        self._accounts: dict[float, OrderedDict[str, _Account]] = {}

    async def reserve(self, hold: Hold) -> Refusal | None:
        now = self._clock.now()
        accounts = [self._account(demand.allowance, now) for demand in hold.demands]
        for demand, account in zip(hold.demands, accounts, strict=True):
            refusal = account.refusal_of(demand, now)
            if refusal is not None:
                self._forget_idle(now)
                return refusal
        for demand, account in zip(hold.demands, accounts, strict=True):
            account.held += demand.amount
            hold.num_taken.append(account.held + account.used)
        self._held[hold.hold_id] = hold
        self._forget_idle(now)
        return None

    def settle(self, hold: Hold, used: Sequence[int]) -> None:
        if self._held.pop(hold.hold_id, None) is None:
            return
        now = self._clock.now()
        for demand, amount in zip(hold.demands, used, strict=True):
            account = self._account(demand.allowance, now)
            account.held -= demand.amount
            account.use(amount, now)

    async def seed(self, allowance: Allowance, used: int) -> None:
        now = self._clock.now()
        account = self._account(allowance, now)
        if not account.is_seeded:
            account.is_seeded = True
            account.use(used, now)

    async def aclose(self) -> None:
        """There is nothing to close."""

    @property
    def num_held(self) -> int:
        """Requests whose reservation is not settled yet."""
        return len(self._held)

    def reserved(self) -> Mapping[str, int]:
        """By measure, held in all accounts: nothing where no request runs."""
        sums: dict[str, int] = {"tokens": 0, "requests": 0, "cost_nano": 0}
        for accounts in self._accounts.values():
            for account in accounts.values():
                sums[account.measure] += account.held
        return sums

    @property
    def num_accounts(self) -> int:
        return sum(map(len, self._accounts.values()))

    def num_taken(self, allowance: Allowance) -> int:
        """Held and used now."""
        account = self._accounts.get(allowance.window_s, {}).get(allowance.account)
        if account is None:
            return 0
        account.drop_old(self._clock.now())
        return account.num_taken

    def _account(self, allowance: Allowance, now: float) -> _Account:
        accounts = self._accounts.get(allowance.window_s)
        if accounts is None:
            accounts = self._accounts[allowance.window_s] = OrderedDict()
        account = accounts.get(allowance.account)
        if account is None:
            account = accounts[allowance.account] = _Account(allowance)
        accounts.move_to_end(allowance.account)
        account.touched_at = now
        account.drop_old(now)
        return account

    def _forget_idle(self, now: float) -> None:
        """At most two of each window: more than one request brings."""
        for accounts in self._accounts.values():
            for name in [*islice(accounts, 2)]:
                if accounts[name].is_idle(now):
                    del accounts[name]


class _Account:
    __slots__ = (
        "_retention_s", "_slot_s", "_slots", "_window_s", "held", "is_seeded", "measure", "touched_at", "used",
    )  # fmt: skip

    def __init__(self, allowance: Allowance) -> None:
        self._window_s, self._retention_s = allowance.window_s, allowance.retention_s
        self._slot_s = 0.0 if self._window_s == FOR_EVER else self._window_s / NUM_SLOTS
        self._slots: deque[tuple[int, int]] = deque()  # (number, used in it), oldest first
        self.measure = allowance.measure
        self.held = self.used = 0
        self.is_seeded = False
        self.touched_at = 0.0

    @property
    def num_taken(self) -> int:
        return self.held + self.used

    def refusal_of(self, demand: Demand, now: float) -> Refusal | None:
        if self._window_s == FOR_EVER and not self.is_seeded:
            return Refusal(demand, self.num_taken, None, is_unseeded=True)
        if self.num_taken + demand.amount > demand.allowance.limit:
            return Refusal(demand, self.num_taken, self._room_after_s(demand, now))
        return None

    def use(self, amount: int, now: float) -> None:
        if not amount or not self._window_s:
            return
        self.used += amount
        if self._window_s == FOR_EVER:
            return
        number = int(now // self._slot_s)
        if self._slots and self._slots[-1][0] == number:
            amount += self._slots.pop()[1]
        self._slots.append((number, amount))

    def drop_old(self, now: float) -> None:
        while self._slots and self._drops_at(self._slots[0][0]) <= now:
            self.used -= self._slots.popleft()[1]

    def _room_after_s(self, demand: Demand, now: float) -> float | None:
        too_many = self.num_taken + demand.amount - demand.allowance.limit
        for number, amount in self._slots:
            too_many -= amount
            if too_many <= 0:
                return self._drops_at(number) - now
        return None

    def is_idle(self, now: float) -> bool:
        return not self.held and now - self.touched_at > self._retention_s

    def _drops_at(self, slot_number: int) -> float:
        return (slot_number + 1) * self._slot_s + self._window_s
