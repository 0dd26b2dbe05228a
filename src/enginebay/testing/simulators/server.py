"""A simulated engine behind its own protocol, on loopback. Everything it says is labelled as simulated.

async with Simulator("vllm", ["some/model", "--max-num-seqs", "4"], profile=PROFILES["paced"]) as simulator:
    backend = get_backend("vllm", mode="external", url=simulator.url, model="some/model")

simulator.faults.inject(Fault.STALL, num_requests=1)      # what goes wrong, while it runs
simulator.kill_engine("out of memory")                    # the server lives on
simulator.num_in_flight, simulator.engine.num_used_blocks # both 0 when everybody has left
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from types import TracebackType

from enginebay.clock import Clock, MonotonicClock
from enginebay.errors import ConfigError
from enginebay.testing.simulators import wires
from enginebay.testing.simulators.connection import SimulatorConnection
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.testing.simulators.faults import FAULTS_IN_ANSWER, Fault, FaultPlan, FaultRule, FaultSwitch
from enginebay.testing.simulators.performance import INSTANT, SimulatorProfile
from enginebay.testing.simulators.wire import DEFAULT_MODEL, Launch, WireSpec

_BACKLOG = 4096


def simulated_kinds() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in iter_modules(wires.__path__)))


def find_wire(kind: str) -> WireSpec:
    """Case and `-`/`_` do not matter. Raises ConfigError."""
    name = kind.lower().replace("-", "_")
    if name not in simulated_kinds():
        raise ConfigError(f"there is no simulator of {kind!r}", expected=f"one of {', '.join(simulated_kinds())}")
    return import_module(f"{wires.__name__}.{name}").WIRE


class Simulator:
    """`start` returns when the address is known; it listens at once, or when loaded, as its engine does."""

    def __init__(
        self,
        kind: str,
        arguments: Sequence[str] = (),
        *,
        profile: SimulatorProfile = INSTANT,
        faults: FaultPlan | None = None,
        clock: Clock | None = None,
        port: int | None = None,
        seed: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """arguments: the engine's own command line; the model is `simulated` where it has none.

        port: None takes the command line's where it has one, else a free one; 0 is a free one.
        environment: what stands for flags that are not given. Raises ConfigError in the engine's words.
        """
        self.spec = find_wire(kind)
        self.launch: Launch = self.spec.configure(self.spec.flags.parse(arguments, environment), profile)
        self.faults = FaultSwitch(faults)
        self._clock = clock or MonotonicClock()
        self.engine = SimulatedEngine(self.launch.profile, self._clock, seed=seed)
        self.wire = self.spec.create(self.launch, self.engine)
        wanted = self.launch.port if port is None else port
        self.port = wanted or 0
        self.num_requests = 0
        """HTTP requests, of any path."""
        self._connections: set[SimulatorConnection] = set()
        self._all_gone = asyncio.Event()
        self._socket: socket.socket | None = None
        self._is_listening = False
        self._accepting: set[asyncio.Task[object]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._engine_broke = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def model(self) -> str:
        return self.launch.model

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    @property
    def num_in_flight(self) -> int:
        """Requests whose answer is not complete."""
        return sum(connection.exchange is not None for connection in self._connections)

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        self._socket = _bound(self.port)
        self.port = self._socket.getsockname()[1]
        self._tasks = [asyncio.create_task(self.engine.run())]
        self._tasks[0].add_done_callback(self._engine_ended)
        if self.engine.is_loaded or self.spec.listens_while_loading:
            await self.accept_connections()
        else:
            self._tasks.append(asyncio.create_task(self._listen_when_loaded()))

    async def aclose(self) -> None:
        """Close every connection at once, as a killed server does."""
        await self.refuse_connections()
        self.disconnect_all()
        for task in self._tasks:
            task.cancel()
        endings = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._connections:
            self._all_gone.clear()
            await self._all_gone.wait()
        for ending in endings:
            if isinstance(ending, Exception):
                raise ending

    async def wait_loaded(self) -> None:
        """Until it listens and has loaded."""
        await self.engine.wait_loaded()
        if len(self._tasks) > 1:
            await self._tasks[1]

    async def wait_broken(self) -> None:
        """Until the engine has ended by a defect of its own, which `aclose` raises; for ever where it has none."""
        await self._engine_broke.wait()

    async def until(self, holds: Callable[[Simulator], bool]) -> None:
        """For tests: `await simulator.until(lambda it: it.engine.num_waiting == 2)`."""
        while not holds(self):  # noqa: ASYNC110 - a test's condition may be about anything
            await asyncio.sleep(0.001)

    async def until_idle(self) -> None:
        """Every answer is complete or its client has gone, and the engine holds nothing."""
        await self.until(lambda it: not it.num_in_flight and not it.engine.num_unfinished)

    async def accept_connections(self) -> None:
        """Listen, again after `refuse_connections`, on the same port."""
        if not self._is_listening:
            self._socket = self._socket or _bound(self.port)
            self._socket.listen(_BACKLOG)
            self._is_listening = True
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def refuse_connections(self) -> None:
        """New ones; those that are open stay."""
        self._close_socket()
        if self._accepting:
            await asyncio.wait(self._accepting)

    def _close_socket(self) -> None:
        if self._socket is None:
            return
        if self._is_listening:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._is_listening = False
        self._socket.close()
        self._socket = None

    def _engine_ended(self, task: asyncio.Task[None]) -> None:
        """By a defect of its own, unless it was cancelled: nobody shall wait for its answers. `aclose` raises it."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._report("the simulated engine broke; its server closes", error)
        self._close_socket()
        self.disconnect_all()
        self._engine_broke.set()

    def _report(self, message: str, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    def _accept(self) -> None:
        """asyncio's own server leaks what it accepts in the turn in which it is closed; this one may close any time."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            accepted.setblocking(False)
            connecting = loop.connect_accepted_socket(lambda: SimulatorConnection(self), accepted)
            task: asyncio.Task[object] = loop.create_task(connecting)
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def disconnect_all(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()

    def kill_engine(self, reason: str = "the engine died") -> None:
        """With all its requests; the server around it lives on."""
        self.engine.die(reason)

    def revive_engine(self) -> None:
        self.engine.revive()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _listen_when_loaded(self) -> None:
        await self.engine.wait_loaded()
        await self.accept_connections()

    # ---------------------------------------------------------------- told by the connections

    def connected(self, connection: SimulatorConnection) -> None:
        self._connections.add(connection)

    def disconnected(self, connection: SimulatorConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def handle(self, request: HttpRequest, connection: SimulatorConnection) -> None:
        self.num_requests += 1
        is_generation = self.wire.is_generation(request)
        rule = self.faults.decide() if is_generation else None
        in_answer = rule if _is_in_answer(rule) else None
        exchange = Exchange(connection, self.engine, in_answer, has_body=request.method != "HEAD")
        connection.exchange = exchange
        try:
            self._answer(request, exchange, rule)
        except Exception as error:  # noqa: BLE001 - a defect of the wire; who found it must not wait for ever
            self._report(f"the simulator broke over {request.method} {request.path}", error)
            exchange.fail(f"the simulator broke over this request: {error!r}")

    def _answer(self, request: HttpRequest, exchange: Exchange, rule: FaultRule | None) -> None:
        if not self.engine.is_loaded:
            self.wire.while_loading(request, exchange)
        elif self.engine.death_reason is not None:
            self.wire.when_dead(request, exchange)
        elif rule is None or _is_in_answer(rule):
            self.wire.handle(request, exchange)
        else:
            self._strike(rule.fault, request, exchange)

    def _strike(self, fault: Fault, request: HttpRequest, exchange: Exchange) -> None:
        match fault:
            case Fault.LOADING:
                self.wire.while_loading(request, exchange)
            case Fault.OVERLOAD:
                self.wire.when_overloaded(request, exchange)
            case Fault.DEAD:
                self.kill_engine()
                self.wire.when_dead(request, exchange)
            case _:
                exchange.abort()


def _is_in_answer(rule: FaultRule | None) -> bool:
    return rule is not None and rule.fault in FAULTS_IN_ANSWER


def _bound(port: int) -> socket.socket:
    """Bound and not listening: whoever connects is refused, and nobody else can take the port."""
    # The protocol is named so that asyncio knows connections for TCP and switches Nagle's delay off.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound


__all__ = ["DEFAULT_MODEL", "Simulator", "find_wire", "simulated_kinds"]
