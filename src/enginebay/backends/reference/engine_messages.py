"""What passes between the text side and the engine's process, as msgpack."""

from __future__ import annotations

import msgspec

from enginebay.engine.limits import EngineLimits
from enginebay.engine.request import EngineCounters, EngineOutput, EngineRequest
from enginebay.engine.settings import EngineConfig


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message, once."""

    config: EngineConfig


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    request: EngineRequest


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    request_id: str


class ResetPrefixCache(msgspec.Struct, frozen=True, tag="reset_prefix_cache"):
    pass


ToEngine = Start | Submit | Cancel | ResetPrefixCache


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The first answer, once the weights are loaded."""

    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    num_blocks: int
    block_size: int
    architecture: str
    dtype: str
    device: str
    policy: str
    max_num_seqs: int
    max_num_batched_tokens: int
    enable_prefix_caching: bool
    """Whether blocks are shared: what was asked for, but for static batching."""
    num_threads: int
    kernels: str
    """The form of the layers that was chosen: native, packed or plain."""
    quantization: str | None
    torch_version: str
    memory: str
    """Weights and KV cache, with the arithmetic."""
    weight_bytes: int
    """Weights as they are held, every layout of them."""
    stored_weight_bytes: int
    """The same, once each, in the dtype that is computed in."""
    weight_layouts: str
    """Each part of the weights, its layout and its bytes."""
    kv_cache_allocated_bytes: int

    @property
    def limits(self) -> EngineLimits:
        return EngineLimits(
            max_model_len=self.max_model_len,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            vocab_size=self.vocab_size,
        )


class StepDone(msgspec.Struct, frozen=True, tag="step"):
    """Everything one step made, for all requests at once, and the counters after it; also sent after a cancel."""

    outputs: list[EngineOutput]
    counters: EngineCounters


FromEngine = EngineReady | StepDone

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
