"""What several client processes gave to their sockets, brought together: each request of the plan once."""

import asyncio
import hashlib

from loadtest_fakes import planned

from enginebay.clock import MonotonicClock
from enginebay.loadtest.fleet import Fleet
from enginebay.loadtest.plan import Load
from enginebay.loadtest.reaching import reach_of
from enginebay.loadtest.records import Record
from enginebay.loadtest.sent.body import planned_prompt
from enginebay.loadtest.sent.sent import Sent
from enginebay.loadtest.single_process import SingleProcess
from enginebay.plugins import get_backend
from enginebay.testing.scripted_server import ScriptedServer
from enginebay.testing.server_script import Script

REQUESTS = [planned(index, offset_s=index / 200) for index in range(30)]
LOAD = Load(rate=200.0, arrivals="constant")


def test_two_processes_tell_what_they_sent_as_one_does() -> None:
    async def main() -> None:
        async with ScriptedServer(Script(token_gap_s=0.002), model="m") as server:
            together, records = await sent_by(server, num_processes=2)
            alone, _ = await sent_by(server, num_processes=1)
            assert [one.index for one in sorted(together, key=lambda one: one.index)] == list(range(30))
            assert sorted(one.load_sha256 for one in together) == sorted(one.load_sha256 for one in alone)
            assert {one.index: one.at for one in together} == {record.index: record.sent_at for record in records}
            bodies = {hashlib.sha256(request.body).hexdigest() for request in server.generations}
            assert {one.body_sha256 for one in together} == bodies
            for one in together:
                assert (one.prompt_form, one.prompt_sha256) == planned_prompt(REQUESTS[one.index].prompt)

    asyncio.run(main())


async def sent_by(server: ScriptedServer, *, num_processes: int) -> tuple[list[Sent], list[Record]]:
    records: list[Record] = []
    async with get_backend("openai_http", url=server.url, model="m") as backend:
        if num_processes == 1:
            replayer = SingleProcess(backend, clock=MonotonicClock(), on_record=records.append)
        else:
            reach = reach_of(backend)
            assert reach is not None
            replayer = Fleet(reach, num_processes=num_processes, clock=MonotonicClock(), on_record=records.append)
        await replayer.run(REQUESTS, LOAD)
        return replayer.sent or [], records
