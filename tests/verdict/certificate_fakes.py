"""Two backends behind loopback servers, measured as always; the servers keep every byte that they were sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
from drawn_results import ENVIRONMENT

from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedMessage, PlannedRequest
from enginebay.loadtest.result import Result, save_result
from enginebay.loadtest.session import Bench
from enginebay.plugins import get_backend
from enginebay.testing.scripted_server import ScriptedServer
from enginebay.testing.server_protocol import ReceivedRequest
from enginebay.testing.server_script import Script
from enginebay.types import SamplingParams

Tampering = Callable[[bytes, bytes], bytes]
"""(head, body) -> the body that is sent instead."""
SAMPLING = SamplingParams(max_tokens=3, temperature=0.5, top_p=0.9, top_k=20, seed=7, stop=("never",))


class QuietWatcher:
    def phase(self, label: str, what: str) -> None: ...

    def run_begins(self, run: object, num_requests: int) -> None: ...

    def record(self, run: object, record: object) -> None: ...

    def run_ends(self, run: object) -> None: ...


def small_plan(*, loads: Sequence[Load] = (Load(users=2),), num_requests: int = 6, form: str = "text") -> Plan:
    return Plan(
        model="m",
        workload="a few words",
        seed=0,
        loads=tuple(PlannedLoad(load=load, requests=_requests(load, num_requests, form)) for load in loads),
    )


def _requests(load: Load, num_requests: int, form: str) -> tuple[PlannedRequest, ...]:
    prompts = {
        "text": lambda index: {"text": f"{index} words here"},
        "token_ids": lambda index: {"token_ids": (index, 5, 6)},
        "messages": lambda index: {"messages": (PlannedMessage(role="user", content=f"{index} words here"),)},
    }
    return tuple(
        PlannedRequest(
            index=index,
            num_prompt_tokens=3,
            offset_s=None if load.users else index / (load.rate or 1.0),
            sampling=SAMPLING,
            **prompts[form](index),
        )
        for index in range(num_requests)
    )


def measured(
    folder: Path,
    plan: Plan,
    *labels: str,
    models: Sequence[str] = (),
    tampering: dict[str, Tampering] | None = None,
) -> dict[str, list[ReceivedRequest]]:
    """What each server received, in its order. models: what each server calls its model, else its label."""
    return asyncio.run(_measured(folder, plan, labels, models=models or labels, tampering=tampering or {}))


async def _measured(
    folder: Path, plan: Plan, labels: Sequence[str], *, models: Sequence[str], tampering: dict[str, Tampering]
) -> dict[str, list[ReceivedRequest]]:
    async with AsyncExitStack() as stack:
        servers = {
            label: await stack.enter_async_context(ScriptedServer(Script(token_gap_s=0.002), model=model))
            for label, model in zip(labels, models, strict=True)
        }
        subjects = [_subject(label, server, tamper=tampering.get(label)) for label, server in servers.items()]
        bench = Bench(
            plan,
            subjects,
            out=folder,
            clock=MonotonicClock(),
            watcher=QuietWatcher(),
            environment=ENVIRONMENT,
            settings=BenchSettings(sample_interval_s=0.2),
        )
        _believed(await bench.run(), folder)
        return {label: server.generations for label, server in servers.items()}


def _believed(result: Result, folder: Path) -> None:
    """A busy machine may stall the client in mid-test; what is looked at here is what was sent all the same."""
    runs = [msgspec.structs.replace(run, valid=True, invalid_reasons=[]) for run in result.runs]
    save_result(msgspec.structs.replace(result, runs=runs), folder / "result.json")


def _subject(label: str, server: ScriptedServer, *, tamper: Tampering | None) -> Subject:
    @asynccontextmanager
    async def opened():
        backend = get_backend("openai_http", name=label, model=server.model, url=server.url, clock=MonotonicClock())
        async with backend:
            if tamper is not None:
                _tamper_with(backend, tamper)
            yield backend

    return Subject(label=label, kind="openai_http", open=opened)


def _tamper_with(backend: Backend, tamper: Tampering) -> None:
    """An adapter or a client with a fault: what reaches the socket is not what was asked for."""
    assert isinstance(backend, GuardedBackend)
    api = backend.inner._api  # pyright: ignore[reportAttributeAccessIssue]
    honest = api.call

    def call(request, info):
        made = honest(request, info)
        return replace(made, body=tamper(request.request_id.encode(), made.body))

    api.call = call


def with_field(name: str, value: object, *, index: int = 3) -> Tampering:
    """One field of one request is sent otherwise; None leaves it out."""

    def tamper(request_id: bytes, body: bytes) -> bytes:
        if not request_id.endswith(b"-%d" % index):
            return body
        fields = json.loads(body)
        fields.pop(name, None)
        return json.dumps(fields if value is None else {**fields, name: value}, separators=(",", ":")).encode()

    return tamper
