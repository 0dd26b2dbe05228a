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

    def take(self, key: str, limit: int, expiry: int, amount: int = 1) -> int:
        """How many are left in the window after these; below 0 there was no room for them, and they do not count."""
        now = self._clock.now()
        entries = self._entries(key, expiry, now)
        num_left = limit - len(entries) - amount
        if num_left >= 0:
            entries.extend([now] * amount)
        return num_left

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self.take(key, limit, expiry, amount) >= 0

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The oldest instant that still counts, of the clock; and how many do."""
        now = self._clock.now()
        entries = self._entries(key, expiry, now)
        return (entries[0] if entries else now), len(entries)

    def _entries(self, key: str, expiry: int, now: float) -> deque[float]:
        window = self._windows.get(expiry)
        if window is None:
            window = self._windows[expiry] = OrderedDict()
        for name in [*islice(window, 2)]:
            if not window[name] or window[name][-1] + expiry < now:
                del window[name]
        entries = window.get(key)
        if entries is None:
            entries = window[key] = deque()
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
