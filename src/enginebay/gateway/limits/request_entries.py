"""Where the library `limits` keeps a moving window of one gateway.

Its own memory store starts a task for every request, which goes through all keys, each in a thread; and it knows no
clock but the machine's. This one has neither tasks nor threads, and forgets who has been quiet for a window.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

from limits.aio.storage import MovingWindowSupport, Storage

from enginebay.clock import Clock


class RequestEntries(Storage, MovingWindowSupport):
    STORAGE_SCHEME = None

    def __init__(self, *, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.num_entries = 0
        """Of the key that was asked for last: to be read before anything else runs."""
        # for each window in seconds, so that the key that was not used for longest comes first
        self._windows: dict[int, OrderedDict[str, deque[float]]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def now(self) -> float:
        return self._clock.now()

    @property
    def num_keys(self) -> int:
        return sum(map(len, self._windows.values()))

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = self._clock.now()
        entries = self._entries(key, expiry, now)
        self.num_entries = len(entries)
        if self.num_entries + amount > limit:
            return False
        self.num_entries += amount
        entries.extend([now] * amount)
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The oldest instant that still counts, of the clock; and how many do."""
        now = self._clock.now()
        entries = self._entries(key, expiry, now)
        return (entries[0] if entries else now), len(entries)

    def _entries(self, key: str, expiry: int, now: float) -> deque[float]:
        window = self._windows.setdefault(expiry, OrderedDict())
        for name in [*islice(window, 2)]:
            if not window[name] or window[name][-1] + expiry < now:
                del window[name]
        entries = window.setdefault(key, deque())
        window.move_to_end(key)
        while entries and entries[0] + expiry < now:
            entries.popleft()
        return entries

    # The fixed-window half of the interface, which a moving window never calls.

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    async def get(self, key: str) -> int:
        raise NotImplementedError

    async def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    async def check(self) -> bool:
        return True

    async def reset(self) -> int | None:
        num_keys = self.num_keys
        self._windows.clear()
        return num_keys

    async def clear(self, key: str) -> None:
        for window in self._windows.values():
            window.pop(key, None)
