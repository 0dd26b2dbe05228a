"""Runs in the engine's own process: hears messages between steps, steps while there is work, else sleeps in `poll`."""

from __future__ import annotations

import gc
import sys

import msgspec

from enginebay.backends.reference.engine_messages import (
    Cancel,
    EngineReady,
    ResetPrefixCache,
    Start,
    StepDone,
    Submit,
    decode_to_engine,
    encode,
)
from enginebay.backends.worker.channel import ChildChannel
from enginebay.clock import Clock, MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.request import EngineOutput
from enginebay.engine.settings import EngineConfig
from enginebay.errors import DeadlineExceeded, InvalidRequest, RequestError


def main(channel: ChildChannel) -> None:
    """Returns when the parent closes the channel, or has gone."""
    clock = MonotonicClock()
    if (config := _receive_config(channel)) is None:
        return
    engine, ready = _build(config, clock)
    channel.send(encode(ready))
    gc.collect()
    gc.freeze()  # weights and modules live as long as the process: no collection needs to walk them
    EngineLoop(engine, channel, clock).run()


def _build(config: EngineConfig, clock: Clock) -> tuple[Engine, EngineReady]:
    # imported this late so that a torch that is missing or broken is a failed start with its reason in the log
    import torch

    from enginebay.engine.factory import assemble
    from enginebay.engine.model_runner import ModelRunner

    runner = ModelRunner(config)
    engine = assemble(config, runner, clock)
    ready = EngineReady(
        max_model_len=runner.max_model_len,
        vocab_size=runner.model_config.vocab_size,
        eos_token_ids=runner.model_config.eos_token_ids,
        num_blocks=runner.num_blocks,
        block_size=runner.block_size,
        architecture=runner.model_config.architecture,
        dtype=config.dtype,
        device=str(runner.device),
        policy=config.policy,
        max_num_seqs=engine.scheduler.policy.max_num_slots,
        max_num_batched_tokens=config.max_num_batched_tokens,
        enable_prefix_caching=engine.scheduler.prefix_cache is not None,
        num_threads=torch.get_num_threads(),
        kernels=runner.kernels,
        quantization=config.quantization,
        torch_version=str(torch.__version__),
        memory=str(runner.memory_use),
        weight_bytes=runner.memory_use.weight_bytes,
        stored_weight_bytes=runner.memory_use.stored_bytes,
        weight_layouts=runner.memory_use.layouts,
        kv_cache_allocated_bytes=runner.memory_use.kv_cache.num_bytes,
    )
    return engine, ready


def _receive_config(channel: ChildChannel) -> EngineConfig | None:
    for frame in channel.receive(None):
        message = decode_to_engine(frame)
        assert isinstance(message, Start), "the first message is Start, and nothing is sent before its answer"
        return message.config
    return None


class EngineLoop:
    def __init__(self, engine: Engine, channel: ChildChannel, clock: Clock) -> None:
        self._engine, self._channel, self._clock = engine, channel, clock
        self._refused: list[EngineOutput] = []

    def run(self) -> None:
        while True:
            has_news = self._hear()
            if self._channel.is_closed:
                return
            if self._is_due():
                self._tell(self._engine.step())
            elif has_news:
                self._tell([])

    def _hear(self) -> bool:
        """Take every message that has come; wait for one as long as there is nothing to compute."""
        frames = self._channel.receive(self._idle_s())
        for frame in frames:
            try:
                message = decode_to_engine(frame)
            except msgspec.DecodeError as error:
                self._refuse(frame, str(error))
                continue
            if isinstance(message, Submit):
                self._add(message)
            elif isinstance(message, Cancel):
                self._engine.cancel(message.request_id)
            elif isinstance(message, ResetPrefixCache):
                self._engine.reset_prefix_cache()
        return bool(frames)

    def _idle_s(self) -> float | None:
        at = self._engine.next_step_at()
        return None if at is None else max(0.0, at - self._clock.now())

    def _is_due(self) -> bool:
        at = self._engine.next_step_at()
        return at is not None and at <= self._clock.now()

    def _add(self, message: Submit) -> None:
        try:
            self._engine.add(message.request)
        except RequestError as error:
            self._refused.append(_refusal(message.request.request_id, error))

    def _refuse(self, frame: bytes, problem: str) -> None:
        """One message that cannot be read costs its own request, where it names one, and no other."""
        sys.stderr.write(f"a message to the engine cannot be read: {problem}\n")
        match _decoded_loosely(frame):
            case {"request": {"request_id": str(request_id)}}:
                self._refused.append(_refusal(request_id, InvalidRequest(f"the request cannot be read: {problem}")))
            case _:
                pass

    def _tell(self, outputs: list[EngineOutput]) -> None:
        outputs, self._refused = self._refused + outputs, []
        self._channel.send(encode(StepDone(outputs, self._engine.counters)))


def _refusal(request_id: str, error: RequestError) -> EngineOutput:
    kind = "deadline" if isinstance(error, DeadlineExceeded) else None
    return EngineOutput(request_id=request_id, token_ids=[], finish_reason="error", error=str(error), error_kind=kind)


def _decoded_loosely(frame: bytes) -> object:
    try:
        return msgspec.msgpack.decode(frame)
    except msgspec.DecodeError:
        return None
