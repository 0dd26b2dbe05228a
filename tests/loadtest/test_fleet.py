"""Several client processes against the oracle: what they record together is what it sent."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import nullcontext
from itertools import pairwise

import pytest
from child_processes import ChildProcesses, child_processes
from loadtest_fakes import ScriptedBackend, SilentWatcher, VirtualClock, planned, started

from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.errors import LoadTestError
from enginebay.loadtest.fleet import Fleet, num_processes_for
from enginebay.loadtest.measurement import BenchSettings, Measurement, Subject
from enginebay.loadtest.plan import Load, PlannedLoad
from enginebay.loadtest.reaching import reach_of
from enginebay.loadtest.records import Record
from enginebay.loadtest.self_check.oracle_process import OracleProcess, oracle_process
from enginebay.loadtest.self_check.script import OracleScript
from enginebay.plugins import get_backend

__all__ = ["child_processes"]  # a fixture of every test here


class Recorder:
    """Collects records; `some_are_there` once there are eight."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.some_are_there = asyncio.Event()

    def __call__(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) == 8:
            self.some_are_there.set()

    async def wait_for_some(self, running: asyncio.Task[None]) -> None:
        waiting = asyncio.create_task(self.some_are_there.wait())
        await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


async def fleet_for(
    oracle: OracleProcess, on_record: Recorder, *, attach_timeout_s: float = 10.0, silent_s: float = 60.0
) -> Fleet:
    async with get_backend("openai_http", url=oracle.url, model="oracle", options={"api_key": "secret"}) as backend:
        reach = reach_of(backend)
    assert reach is not None
    assert reach.options == {"api_key": "secret", "start_timeout_s": 10.0}
    reach.options["start_timeout_s"] = attach_timeout_s
    return Fleet(reach, num_processes=2, clock=MonotonicClock(), on_record=on_record, run_id="fleet", silent_s=silent_s)


def test_two_processes_send_each_request_once_at_its_instant_and_their_records_share_one_clock() -> None:
    async def main() -> None:
        async with oracle_process() as oracle:
            await oracle.play(OracleScript(first_token_after_s=0.02, token_gap_s=0.001))
            recorder = Recorder()
            fleet, records = await fleet_for(oracle, recorder), recorder.records
            requests = [planned(index, max_tokens=1 + index % 7, offset_s=index / 100) for index in range(60)]
            await fleet.run(requests, Load(rate=100.0, arrivals="constant"))
            exchanges = await oracle.exchanges()
            assert sorted(record.index for record in records) == list(range(60))
            for record in records:
                exchange = exchanges[f"fleet-{record.index}"]
                assert record.num_output_tokens == exchange.num_tokens == 1 + record.index % 7
                assert record.scheduled_at == pytest.approx(record.index / 100)
                # The oracle's own clock: what it saw lies between what this record says of its sending and its end.
                received_at = exchange.received_at - fleet.started_at
                assert record.scheduled_at <= record.sent_at <= received_at <= record.ended_at
                assert record.first_token_at is not None
                assert record.first_token_at >= exchange.sent_at[0] - fleet.started_at
            assert len(fleet.figures) == 2
            assert fleet.num_in_flight == 0

    asyncio.run(main())


def test_one_user_asks_every_request_although_there_are_two_processes() -> None:
    async def main() -> None:
        async with oracle_process() as oracle:
            await oracle.play(OracleScript())
            recorder = Recorder()
            fleet = await fleet_for(oracle, recorder)
            await fleet.run([planned(index, max_tokens=2) for index in range(6)], Load(users=1))
            assert sorted(record.index for record in recorder.records) == list(range(6))
            in_order = sorted(recorder.records, key=lambda record: record.sent_at)
            assert all(before.ended_at <= after.sent_at for before, after in pairwise(in_order))

    asyncio.run(main())


def test_a_cancelled_fleet_keeps_what_was_measured_and_tells_what_was_under_way() -> None:
    async def main() -> None:
        async with oracle_process() as oracle:
            await oracle.play(OracleScript(first_token_after_s=0.05, token_gap_s=0.05))
            recorder = Recorder()
            fleet, records = await fleet_for(oracle, recorder), recorder.records
            requests = [planned(index, max_tokens=2) for index in range(400)]
            running = asyncio.create_task(fleet.run(requests, Load(users=4)))
            await recorder.wait_for_some(running)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            interrupted = [record for record in records if record.error_class == "Interrupted"]
            assert len(interrupted) == 4
            assert sum(record.is_finished for record in records) >= 8
            assert len(fleet.figures) == 2

    asyncio.run(main())


def test_a_client_process_that_dies_ends_the_run_with_its_cause_and_the_records_of_the_others_are_kept(
    child_processes: ChildProcesses,
) -> None:
    async def main() -> None:
        async with oracle_process() as oracle:
            await oracle.play(OracleScript(first_token_after_s=0.05))
            recorder = Recorder()
            fleet, records = await fleet_for(oracle, recorder), recorder.records
            requests = [planned(index, max_tokens=2) for index in range(2000)]
            running = asyncio.create_task(fleet.run(requests, Load(users=4)))
            await recorder.wait_for_some(running)
            workers = [child for child in child_processes.started() if child.pid != oracle.pid]
            os.kill(workers[0].pid, signal.SIGKILL)
            with pytest.raises(LoadTestError, match=r"client process \d was killed by SIGKILL in the middle of a run"):
                await running
            assert sum(record.is_finished for record in records) >= 8
            assert any(record.error_class == "Interrupted" for record in records)
            assert len(fleet.figures) == 1
            assert "was killed by SIGKILL in the middle of a run: it had told" in fleet.losses[0]

    asyncio.run(main())


async def stopped_in_the_middle(
    oracle: OracleProcess, children: ChildProcesses, recorder: Recorder, *, silent_s: float
) -> tuple[Fleet, asyncio.Task[None], int]:
    """The run is given up while one of its client processes, whose id it is, stands still."""
    await oracle.play(OracleScript(first_token_after_s=0.05, token_gap_s=0.05))
    fleet = await fleet_for(oracle, recorder, silent_s=silent_s)
    running = asyncio.create_task(fleet.run([planned(index, max_tokens=2) for index in range(400)], Load(users=4)))
    await recorder.wait_for_some(running)
    slow = next(child.pid for child in children.started() if child.pid != oracle.pid)
    os.kill(slow, signal.SIGSTOP)
    running.cancel()
    return fleet, running, slow


def test_a_client_process_that_is_slow_to_hand_over_is_waited_for(
    child_processes: ChildProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginebay.loadtest.fleet.STOP_S", 0.05)  # to end, once everything is told

    async def main() -> None:
        async with oracle_process() as oracle:
            recorder = Recorder()
            fleet, running, slow = await stopped_in_the_middle(oracle, child_processes, recorder, silent_s=60.0)
            asyncio.get_running_loop().call_later(0.4, os.kill, slow, signal.SIGCONT)
            with pytest.raises(asyncio.CancelledError):
                await running
            assert fleet.losses == []
            assert len(fleet.figures) == 2
            assert sum(record.error_class == "Interrupted" for record in recorder.records) == 4

    asyncio.run(main())


def test_records_that_are_never_handed_over_are_told_as_lost(child_processes: ChildProcesses) -> None:
    async def main() -> None:
        async with oracle_process() as oracle:
            fleet, running, _ = await stopped_in_the_middle(oracle, child_processes, Recorder(), silent_s=0.3)
            with pytest.raises(asyncio.CancelledError):
                await running
            [loss] = fleet.losses
            assert re.fullmatch(
                r"client process [12] told nothing for 0\.3 s and was ended: "
                r"it had told \d+ of the 200 requests of its share",
                loss,
            )

    asyncio.run(main())


def test_a_client_process_that_cannot_reach_the_server_says_why() -> None:
    async def main() -> None:
        async with oracle_process() as oracle:
            fleet = await fleet_for(oracle, Recorder(), attach_timeout_s=0.2)
        with pytest.raises(LoadTestError, match="cannot do its part: StartFailed"):
            await fleet.run([planned(0), planned(1)], Load(users=2))

    asyncio.run(main())


def test_small_loads_take_one_process_and_large_ones_several_but_leave_a_core_free() -> None:
    def of_users(users: int, num_cores: int) -> int:
        return num_processes_for([planned(index) for index in range(4)], Load(users=users), num_cores=num_cores)

    fast = [planned(index, offset_s=index / 2500) for index in range(5000)]
    assert [of_users(users, 16) for users in (1, 512, 513, 2000)] == [1, 1, 2, 4]
    assert num_processes_for(fast, Load(rate=2500.0, arrivals="constant"), num_cores=16) == 3
    assert num_processes_for(fast, Load(rate=2500.0, arrivals="constant"), num_cores=2) == 1


# ---------------------------------------------------------------- through a measurement


def measurement(
    backend: Backend, num_requests: int, *, num_client_processes: int | None, label: str = "oracle"
) -> Measurement:
    requests = tuple(planned(index, max_tokens=2) for index in range(num_requests))
    return Measurement(
        Subject(label=label, kind="openai_http", open=lambda: nullcontext(backend)),
        backend,
        planned_load=PlannedLoad(load=Load(users=4), requests=requests),
        start_index=0,
        clock=MonotonicClock(),
        watcher=SilentWatcher(),
        settings=BenchSettings(num_client_processes=num_client_processes, request_timeout_s=30.0),
    )


@pytest.mark.parametrize("num_client_processes", [None, 2])
def test_a_run_tells_how_each_of_its_client_processes_fared(num_client_processes: int | None) -> None:
    async def main() -> None:
        async with oracle_process() as oracle, get_backend("openai_http", url=oracle.url, model="oracle") as backend:
            await oracle.play(OracleScript(first_token_after_s=0.01))
            measuring = measurement(backend, 40, num_client_processes=num_client_processes)
            await measuring.run()
            run = measuring.outcome("complete", tokenizer=None)
            assert run.client.num_processes == (num_client_processes or 1)
            assert run.client_cpu_ratio == max(run.client.cpu_ratios) > 0
            assert run.client.send_lag_p99_s is not None
            assert run.client.longest_stall_s > 0
            assert run.metrics.num_requests == 40
            assert run.metrics.num_output_tokens == 80

    asyncio.run(main())


def test_a_backend_may_have_a_name_that_no_header_has_room_for() -> None:
    async def main() -> None:
        async with oracle_process() as oracle, get_backend("openai_http", url=oracle.url, model="oracle") as backend:
            await oracle.play(OracleScript())
            measuring = measurement(backend, 8, num_client_processes=None, label="\N{CYRILLIC SMALL LETTER YA} \n")
            await measuring.run()
            assert [record.error_message for record in measuring.records] == [None] * 8
            assert sorted(one.index for one in measuring.sent) == list(range(8))

    asyncio.run(main())


def test_several_client_processes_for_a_backend_in_this_process_are_refused() -> None:
    async def main() -> None:
        backend = await started(ScriptedBackend(VirtualClock()))
        with pytest.raises(LoadTestError, match="no other process can be its client"):
            measurement(backend, 4, num_client_processes=2)

    asyncio.run(main())
