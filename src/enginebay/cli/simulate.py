"""`enginebay simulate`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from enginebay.cli.event_loop import new_event_loop
from enginebay.errors import ConfigError, EngineDied
from enginebay.testing.simulators import PROFILES, FaultPlan, SimulatorProfile, simulated_kinds
from enginebay.testing.simulators.faults import Fault, parse_fault
from enginebay.testing.simulators.server import Simulator, find_wire

_KINDS = f"One of {', '.join(simulated_kinds())}."
_FAULTS = f"NAME or NAME:PROBABILITY, more than once: {', '.join(Fault)}."
_FLAGS = "After `--`: the engine's own launch flags."


def simulate(
    kind: Annotated[str, Parameter(help=_KINDS)],
    /,
    *flags: Annotated[str, Parameter(help=_FLAGS, allow_leading_hyphen=True)],
    port: Annotated[int | None, Parameter(help="Instead of the flags' own; 0 is a free one, as without both.")] = None,
    profile: Annotated[str, Parameter(help=f"How fast it is: {', '.join(PROFILES)}.")] = "cpu",
    tick_s: Annotated[float | None, Parameter(help="Of the profile `paced`: all streams get a token together.")] = None,
    load_time_s: Annotated[float | None, Parameter(help="Instead of the profile's.")] = None,
    fault: Annotated[list[str] | None, Parameter(help=_FAULTS, negative="")] = None,
    seed: Annotated[int, Parameter(help="Of faults, and of sampling without a seed of its own.")] = 0,
) -> int:
    """Play an engine: its real protocol, metrics and flags; made-up words at a made-up speed. Labelled as simulated."""
    spec = find_wire(kind)
    speed = _speed(profile, tick_s=tick_s, load_time_s=load_time_s)
    plan = FaultPlan(rules=[parse_fault(text) for text in fault or ()], seed=seed)
    try:
        simulator = Simulator(kind, flags, profile=speed, faults=plan, port=port, seed=seed, environment=os.environ)
    except ConfigError as error:  # in the engine's own words: whoever launches it may look for them
        print(error.problem, file=sys.stderr)
        return spec.usage_exit_code
    if not 0 <= simulator.port <= 65535:
        raise ConfigError(f"there is no port {simulator.port}", path="--port", expected="0 to 65535")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(simulator))
    return 0


def _speed(name: str, *, tick_s: float | None, load_time_s: float | None) -> SimulatorProfile:
    if name not in PROFILES:
        raise ConfigError(f"there is no profile {name!r}", path="--profile", expected=f"one of {', '.join(PROFILES)}")
    if tick_s is not None and PROFILES[name].pace != "paced":
        raise ConfigError(f"the profile {name!r} has no tick", path="--tick-s", expected="it with --profile paced")
    given = {"tick_s": tick_s, "load_time_s": load_time_s}
    speed = replace(PROFILES[name], **{key: value for key, value in given.items() if value is not None})
    speed.check()
    return speed


async def _serve(simulator: Simulator) -> None:
    """Until SIGTERM or Ctrl-C. Raises EngineDied when the simulated engine breaks."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, ending.set)
    try:
        await _serve_until(ending, simulator)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _serve_until(ending: asyncio.Event, simulator: Simulator) -> None:
    try:
        await simulator.start()
    except OSError as error:
        problem = f"cannot listen on port {simulator.port}: {error.strerror}"
        raise ConfigError(problem, path="--port", expected="a free port") from error
    kind = simulator.spec.kind
    print(f"simulated {kind} {simulator.spec.version}: {simulator.url}", flush=True)
    telling = asyncio.create_task(_tell_when_ready(simulator))
    waits = (asyncio.create_task(ending.wait()), asyncio.create_task(simulator.wait_broken()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (telling, *waits):
            task.cancel()
        await _close(simulator)


async def _close(simulator: Simulator) -> None:
    try:
        await simulator.aclose()
    except Exception as error:  # a defect of the simulated engine, whatever it is
        problem = f"the simulated {simulator.spec.kind} engine broke and its server has closed: {error!r}"
        raise EngineDied(f"{problem}; this is a defect of the simulator: please report it") from error


async def _tell_when_ready(simulator: Simulator) -> None:
    await simulator.wait_loaded()
    print(f"simulated {simulator.spec.kind} is ready: it serves {simulator.model}", flush=True)
