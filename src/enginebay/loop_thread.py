"""An event loop in a thread of its own, with one backend on it: for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from enginebay.errors import NotStarted
from enginebay.guard import GuardedBackend

T = TypeVar("T")


class LoopThread:
    """Work is handed over from any thread; the loop's own thread alone touches the backend.

    Close it, or it closes when Python ends. The thread is a daemon, since Python waits for others before it runs
    what was registered with `atexit`.
    """

    def __init__(self, backend: GuardedBackend) -> None:
        self._backend = backend
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._ended: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run_thread, name=f"enginebay-{backend.info.name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for `work` on the loop. Ctrl-C cancels it there, waits until it has ended, and is raised here."""
        done: Future[T] = Future()
        tasks: list[asyncio.Task[None]] = []
        try:
            self._start(work, done, tasks)
            return self.result_of(done)
        except KeyboardInterrupt:  # it may come before the work was handed over
            self._cancel(done, tasks)
            wait([done])
            raise

    def result_of(self, done: Future[T]) -> T:
        """Wait; work that was cancelled because this was closed is NotStarted here."""
        try:
            return done.result()
        except asyncio.CancelledError:
            raise self._closed() from None

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]], done: Future[T]) -> Callable[[], None]:
        """Start `work` on the loop; return what cancels it, from any thread. `done` gets its result or error."""
        tasks: list[asyncio.Task[None]] = []
        self._start(work, done, tasks)
        return lambda: self._cancel(done, tasks)

    def _start(
        self, work: Callable[[], Coroutine[Any, Any, T]], done: Future[T], tasks: list[asyncio.Task[None]]
    ) -> None:
        """tasks: gets the task that carries the work, on the loop."""

        def start() -> None:
            if self._stop.is_set():
                done.set_exception(self._closed())
                return
            task = asyncio.get_running_loop().create_task(_carried(work(), done))
            tasks.append(task)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._call(start, if_closed=lambda: done.set_exception(self._closed()))

    def _cancel(self, done: Future[Any], tasks: list[asyncio.Task[None]]) -> None:
        def cancel() -> None:
            for task in tasks:
                task.cancel()
            if not tasks:  # what was handed over before this has run by now: it never was
                done.cancel()

        self._call(cancel, if_closed=done.cancel)

    def signal_close(self) -> None:
        """Begin to close, without waiting: safe from a garbage collection in any thread, the loop's own included."""
        self._call(self._stop.set)

    def close(self) -> None:
        """Idempotent; returns when the backend is closed, and raises what its closing raised."""
        self.signal_close()
        self._ended.result()
        self._thread.join()

    def _call(self, work: Callable[[], object], *, if_closed: Callable[[], object] = lambda: None) -> None:
        """Run `work` on the loop; `if_closed` here, where the loop is gone."""
        try:
            self._loop.result().call_soon_threadsafe(work)
        except RuntimeError:
            if_closed()

    def _closed(self) -> NotStarted:
        return NotStarted("the LLM is closed: make a new one", backend=self._backend.info.name)

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for the end
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
        finally:
            atexit.unregister(self.close)

    async def _serve(self) -> None:
        self._loop.set_result(asyncio.get_running_loop())
        try:
            await self._stop.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks)
        finally:
            await self._backend.aclose()


async def _carried(work: Coroutine[Any, Any, T], done: Future[T]) -> None:
    try:
        result = await work
    except BaseException as error:  # noqa: BLE001 - raised where somebody waits for the result
        done.set_exception(error)
    else:
        done.set_result(result)
