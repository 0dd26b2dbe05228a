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
from enginebay.gateway.call import Attempt, Call, Outcome
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.models.served_model import ModelCatalog, ServedModel, can_count_tokens
from enginebay.loadtest.traces.mooncake import MooncakeLine, encode_line, sort_by_arrival
from enginebay.loadtest.traces.prefix_hashes import prefix_hashes
from enginebay.types import GenerationRequest, TokenIds, Usage

BLOCK_TOKENS = 64
"""Small enough to see a system prompt; the traces that Mooncake published have 512."""
SALT_VARIABLE = "ENGINEBAY_CAPTURE_SALT"
"""For captures whose hashes shall be comparable: several servers, or several days."""
MAX_WAITING = 10_000
"""Requests whose line is not written yet. More than that are lost, counted and told of, rather than held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """One choice of a call."""

    model: str
    request: GenerationRequest
    at: float
    """Seconds from the first call on."""
    usage: Usage


class TrafficCapture(GatewayHook):
    """Sees the calls of one server; `begin` and `end` frame its life. `end` leaves a file in order of arrival."""

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

    def begin(self, models: ModelCatalog) -> None:
        """models: tell token ids, where they can."""
        self._writing = asyncio.create_task(self._write_all(models))

    def before_engine(self, call: Call, attempt: Attempt) -> None:
        if self._zero is None:
            self._zero = call.arrived_at

    def at_end(self, call: Call, outcome: Outcome) -> None:
        """A line for each choice, also of calls that were cancelled or failed, with what they produced."""
        if outcome.kind == "refused" or not call.attempts:
            return
        at = max(0.0, call.arrived_at - (self._zero or 0.0))
        for request, usage in zip(call.requests, outcome.usages, strict=True):
            if self._waiting.qsize() >= MAX_WAITING:
                self._lose("they come faster than their prompts can be tokenised")
            else:
                self._waiting.put_nowait(_Ended(model=call.model, request=request, at=at, usage=usage))

    async def end(self) -> None:
        """Write what waits, bring the file in order, close it."""
        if self._writing is not None:
            self._waiting.put_nowait(None)
            await self._writing
        self._file.close()
        with suppress(LoadTestError):  # a full disk: the file is whole, only not in order
            await asyncio.to_thread(sort_by_arrival, self._path)
        self._log.info("traffic captured", file=str(self._path), num_lost=self.num_lost)

    async def _write_all(self, models: ModelCatalog) -> None:
        while (ended := await self._waiting.get()) is not None:
            token_ids = await self._token_ids(ended.request, models.find(ended.model))
            if not token_ids and not ended.usage.num_prompt_tokens:  # a line without a length could not be replayed
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
            input_length=len(token_ids) or ended.usage.num_prompt_tokens,
            output_length=ended.usage.num_output_tokens,
            hash_ids=prefix_hashes(token_ids, block_tokens=self._block_tokens, salt=self._salt),
        )
        self._file.write(encode_line(line))

    async def _token_ids(self, request: GenerationRequest, model: ServedModel | None) -> tuple[int, ...] | None:
        """As the engine saw them; None where the backend does not tell. model: None where a reload has removed it."""
        token_ids: tuple[int, ...] | None = None
        if isinstance(request.prompt, TokenIds):
            token_ids = request.prompt.token_ids
        elif model is not None and can_count_tokens(model.info):
            with suppress(EngineBayError):  # it may be closing, or dead: its usage may still tell the number
                token_ids = await model.count_tokens(request.prompt)
        if token_ids is None or request.truncate_prompt_tokens is None:
            return token_ids
        return token_ids[-request.truncate_prompt_tokens :]

    def _lose(self, why: str) -> None:
        self.num_lost += 1
        if self.num_lost == 1:
            self._log.warning("a request is missing from the capture, perhaps more will be", why=why)


class CaptureLife:
    """A capture's begin and end with those of its server."""

    def __init__(self, capture: TrafficCapture, models: ModelCatalog) -> None:
        self._capture, self._models = capture, models

    async def begin(self) -> None:
        self._capture.begin(self._models)

    async def end(self) -> None:
        """Before the models end, which tell the tokens of what is not written yet."""
        await self._capture.end()
