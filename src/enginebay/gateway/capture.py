"""The server's traffic as a trace without texts, in Mooncake's format: to be replayed by the load test.

What is said never reaches the file: of each prompt it has the length and keyed hashes of its blocks, by which a reader
can tell which prompts begin alike, and nothing else. Without a salt of the user's the key is random and forgotten.

Answering a request costs one entry in a queue. Token ids are asked for, hashed and written behind it, by one task.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from enginebay.errors import ConfigError, EngineBayError, LoadTestError
from enginebay.loadtest.traces.mooncake import MooncakeLine, encode_line, sort_by_arrival
from enginebay.loadtest.traces.prefix_hashes import prefix_hashes
from enginebay.monitoring import InstrumentedBackend
from enginebay.types import Feature, GenerationRequest, TokenIds

BLOCK_TOKENS = 64
"""Small enough to see a system prompt; the traces that Mooncake published have 512."""
SALT_VARIABLE = "ENGINEBAY_CAPTURE_SALT"
"""For captures whose hashes shall be comparable: several servers, or several days."""
MAX_WAITING = 10_000
"""Requests whose line is not written yet. More than that are lost, counted and told of, rather than held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    request: GenerationRequest
    at: float
    """Seconds from the first request on."""
    num_prompt_tokens: int | None
    num_output_tokens: int


class TrafficCapture:
    """Sees the requests of one server; `begin` and `end` frame its life. `end` leaves a file in order of arrival."""

    def __init__(
        self, path: Path, *, block_tokens: int = BLOCK_TOKENS, salt: bytes | None = None, log: FilteringBoundLogger
    ) -> None:
        """path: a file that does not exist yet. salt: up to 64 bytes. Raises ConfigError."""
        self.num_lost = 0
        self._path, self._block_tokens, self._log = path, block_tokens, log
        self._salt = salt or secrets.token_bytes(32)
        self._zero: float | None = None
        self._waiting: asyncio.Queue[_Ended | None] = asyncio.Queue()
        self._writing: asyncio.Task[None] | None = None
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError as error:
            raise ConfigError(f"--capture {path}: exists already", expected="the name of a new file") from error
        except OSError as error:
            raise ConfigError(f"--capture {path}: cannot be written: {error.strerror}") from error

    def begin(self, backend: InstrumentedBackend) -> None:
        """backend: tells token ids, where it can."""
        self._writing = asyncio.create_task(self._write_all(backend))

    def arrived(self, at: float) -> None:
        if self._zero is None:
            self._zero = at

    def ended(
        self, request: GenerationRequest, *, arrived_at: float, num_prompt_tokens: int | None, num_output_tokens: int
    ) -> None:
        """Also cancelled ones, with what they produced."""
        if self._waiting.qsize() >= MAX_WAITING:
            self._lose("they come faster than their prompts can be tokenised")
            return
        self._waiting.put_nowait(
            _Ended(
                request=request,
                at=arrived_at - (self._zero or 0.0),
                num_prompt_tokens=num_prompt_tokens,
                num_output_tokens=num_output_tokens,
            )
        )

    async def end(self) -> None:
        """Write what waits, bring the file in order, close it."""
        if self._writing is not None:
            self._waiting.put_nowait(None)
            await self._writing
        self._file.close()
        with suppress(LoadTestError):  # a full disk: the file is whole, only not in order
            await asyncio.to_thread(sort_by_arrival, self._path)
        self._log.info("traffic captured", file=str(self._path), num_lost=self.num_lost)

    async def _write_all(self, backend: InstrumentedBackend) -> None:
        while (ended := await self._waiting.get()) is not None:
            token_ids = await self._token_ids(ended.request, backend)
            if not token_ids and not ended.num_prompt_tokens:  # a line without a length could not be replayed
                self._lose("the backend tells neither the tokens of its prompt nor their number")
                continue
            try:
                await asyncio.to_thread(self._write, ended, token_ids or ())
            except OSError as error:
                self._lose(f"the file cannot be written: {error.strerror}")

    def _write(self, ended: _Ended, token_ids: tuple[int, ...]) -> None:
        """Hash and write, in a thread."""
        line = MooncakeLine(
            timestamp=round(ended.at * 1000),
            input_length=len(token_ids) or ended.num_prompt_tokens or 0,
            output_length=ended.num_output_tokens,
            hash_ids=prefix_hashes(token_ids, block_tokens=self._block_tokens, salt=self._salt),
        )
        self._file.write(encode_line(line))

    async def _token_ids(self, request: GenerationRequest, backend: InstrumentedBackend) -> tuple[int, ...] | None:
        """As the engine saw them; None where the backend does not tell."""
        token_ids: tuple[int, ...] | None = None
        if isinstance(request.prompt, TokenIds):
            token_ids = request.prompt.token_ids
        elif Feature.COUNT_TOKENS in backend.info.capabilities:
            with suppress(EngineBayError):  # it may be closing, or dead: its usage may still tell the number
                token_ids = await backend.count_tokens(request.prompt)
        if token_ids is None or request.truncate_prompt_tokens is None:
            return token_ids
        return token_ids[-request.truncate_prompt_tokens :]

    def _lose(self, why: str) -> None:
        self.num_lost += 1
        if self.num_lost == 1:
            self._log.warning("a request is missing from the capture, perhaps more will be", why=why)


class CaptureLife:
    """A capture's begin and end with those of its server."""

    def __init__(self, capture: TrafficCapture, backend: InstrumentedBackend) -> None:
        self._capture, self._backend = capture, backend

    async def begin(self) -> None:
        self._capture.begin(self._backend)

    async def end(self) -> None:
        """Before the backend ends, which tells the tokens of what is not written yet."""
        await self._capture.end()
