"""`enginebay bench --self-check`: the client's ceiling and its error of timing, found out on the user's machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.errors import LoadTestError
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.plan import Load
from enginebay.loadtest.self_check.ceiling import ClientCeiling
from enginebay.loadtest.self_check.oracle import MODEL
from enginebay.loadtest.self_check.oracle_process import OracleProcess, oracle_process
from enginebay.loadtest.self_check.raw_load import server_requests_per_s
from enginebay.loadtest.self_check.script import OracleScript
from enginebay.loadtest.self_check.trial import Trial, planned_requests, run_trial
from enginebay.plugins import get_backend

NUM_USERS = 64
NUM_TOKENS = 16
NUM_TOKENS_OF_LONG = 256
MAX_STREAMS = 1024
STREAM_TOKENS_PER_S = 20.0
MAX_STAMP_ERROR_S = 0.005
TIMING_RATE = 100.0
OFFSET_RATE = 500.0
FIRST_TOKEN_AFTER_S = 0.02
TOKEN_GAP_S = 0.005

OnStep = Callable[[str], None]


async def check_client(*, environment: Environment, seconds: float = 3.0, on_step: OnStep = print) -> ClientCeiling:
    """Takes about eight times `seconds`. on_step: told in words what is measured next.

    Run it on the event loop that load tests run on, on a machine that does nothing else. Raises LoadTestError when a
    request failed: the oracle fails none.
    """
    async with (
        oracle_process() as oracle,
        get_backend(
            "openai_http", url=oracle.url, model=MODEL, options={"max_connections": 2 * MAX_STREAMS}
        ) as backend,
    ):
        return await _Check(oracle, backend, seconds=seconds, on_step=on_step).run(environment)


class _Check:
    def __init__(self, oracle: OracleProcess, backend: Backend, *, seconds: float, on_step: OnStep) -> None:
        self._oracle, self._backend, self._seconds, self._on_step = oracle, backend, seconds, on_step
        self._clock = MonotonicClock()
        self._num_wrong_token_counts = 0

    async def run(self, environment: Environment) -> ClientCeiling:
        self._on_step("timing of single requests")
        timing = await self._open_loop(TIMING_RATE)
        self._on_step("instants of sending")
        offsets = await self._open_loop(OFFSET_RATE)
        self._on_step("requests a second")
        requests = await self._closed_loop(NUM_TOKENS)
        self._on_step("tokens a second")
        chunks = await self._closed_loop(NUM_TOKENS_OF_LONG)
        self._on_step("streams at the same time")
        num_streams = await self._streams()
        self._on_step("the server that all this was measured with")
        return ClientCeiling(
            requests_per_s=requests.requests_per_s,
            burst_requests_per_s=requests.burst_requests_per_s,
            chunks_per_s=max(chunks.chunks_per_s, requests.chunks_per_s),
            num_streams=num_streams,
            stream_tokens_per_s=STREAM_TOKENS_PER_S,
            max_stamp_error_s=MAX_STAMP_ERROR_S,
            num_users=NUM_USERS,
            num_tokens=NUM_TOKENS,
            ttft_error_p50_s=timing.ttft_error_s(50),
            ttft_error_p99_s=timing.ttft_error_s(99),
            timing_requests_per_s=TIMING_RATE,
            offset_error_p50_s=offsets.offset_error_s(50),
            offset_error_p99_s=offsets.offset_error_s(99),
            offset_requests_per_s=OFFSET_RATE,
            num_wrong_token_counts=self._num_wrong_token_counts,
            server_requests_per_s=await self._ceiling_of_server(),
            environment=environment,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    async def _open_loop(self, rate: float) -> Trial:
        script = OracleScript(first_token_after_s=FIRST_TOKEN_AFTER_S, token_gap_s=TOKEN_GAP_S, role_only_chunk=True)
        num_requests = int(rate * self._seconds)
        return await self._trial(num_requests, (4, 8, 3), Load(rate=rate, arrivals="constant"), script)

    async def _closed_loop(self, num_tokens: int) -> Trial:
        """A short trial tells how many requests fill the time."""
        load = Load(users=NUM_USERS)
        short = await self._trial(4 * NUM_USERS, num_tokens, load, OracleScript())
        num_requests = max(4 * NUM_USERS, int(short.requests_per_s * self._seconds))
        return await self._trial(num_requests, num_tokens, load, OracleScript())

    async def _streams(self) -> int:
        """The last of the doubled numbers whose tokens were all stamped in time; 0 if none was."""
        held, num_streams = 0, NUM_USERS
        while num_streams <= MAX_STREAMS:
            script = OracleScript(first_token_after_s=FIRST_TOKEN_AFTER_S, token_gap_s=1 / STREAM_TOKENS_PER_S)
            num_tokens = max(4, int(STREAM_TOKENS_PER_S * self._seconds / 2))
            # They begin one after the other, as users do: together, every tick would come as one burst.
            load = Load(rate=6 * num_streams / self._seconds, arrivals="constant")
            trial = await self._trial(num_streams, num_tokens, load, script)
            if trial.stamp_error_s(99) > MAX_STAMP_ERROR_S:
                break
            held, num_streams = num_streams, 2 * num_streams
        return held

    async def _ceiling_of_server(self) -> float:
        await self._oracle.play(OracleScript())
        body = b'{"prompt":"x","max_tokens":%d,"stream":true,"stream_options":{"include_usage":true}}' % NUM_TOKENS
        return await server_requests_per_s(self._oracle.url, body, num_users=NUM_USERS, duration_s=self._seconds / 2)

    async def _trial(
        self, num_requests: int, num_tokens: int | tuple[int, ...], load: Load, script: OracleScript
    ) -> Trial:
        requests = planned_requests(num_requests, num_tokens=num_tokens, rate=load.rate)
        trial = await run_trial(self._oracle, self._backend, requests, load, script=script, clock=self._clock)
        if failed := next((record for record in trial.records if not record.is_finished), None):
            raise LoadTestError(f"the self-check failed: {failed.error_class}: {failed.error_message}")
        self._num_wrong_token_counts += trial.num_wrong_token_counts
        return trial
