"""The shape and the checks of OpenVINO GenAI 2026.4.1 around a model that repeats what follows `say:`.

Token ids are bytes; 256 ends a sequence, 257 begins a turn. What it refuses, what a cancelled handle does and when the
metrics change were seen on the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy
from openvino import Tensor

__version__ = "2026.4.1.0-fake"
EOS, TURN = 256, 257
VOCAB_SIZE = 258


class GenerationStatus(Enum):
    RUNNING, FINISHED, IGNORED, CANCEL, STOP = range(5)


class GenerationFinishReason(Enum):
    NONE, STOP, LENGTH, TOOL_CALL = range(4)


class SchedulerConfig:
    __slots__ = ("cache_size", "dynamic_split_fuse", "enable_prefix_caching", "max_num_batched_tokens", "max_num_seqs")

    def __init__(self) -> None:
        self.max_num_seqs, self.max_num_batched_tokens, self.cache_size = 256, 256, 0
        self.dynamic_split_fuse, self.enable_prefix_caching = True, False


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"Check '...' failed at generation_config.cpp:1:\n{what}\n")


class GenerationConfig:
    __slots__ = (
        "apply_chat_template", "do_sample", "eos_token_id", "frequency_penalty", "ignore_eos", "logprobs",
        "max_new_tokens", "min_new_tokens", "min_p", "presence_penalty", "repetition_penalty", "rng_seed",
        "stop_token_ids", "temperature", "top_k", "top_p",
    )  # fmt: skip

    def __init__(self) -> None:
        self.apply_chat_template, self.do_sample, self.ignore_eos = True, False, False
        self.eos_token_id, self.stop_token_ids = -1, set()
        self.max_new_tokens, self.min_new_tokens, self.logprobs, self.rng_seed = 2**64 - 1, 0, 0, 0
        self.temperature = self.top_p = self.repetition_penalty = 1.0
        self.min_p = self.presence_penalty = self.frequency_penalty = 0.0
        self.top_k = 2**64 - 1

    def validate(self) -> None:
        has_end = self.eos_token_id == -1 or self.eos_token_id in self.stop_token_ids or self.ignore_eos
        _check(has_end, "'stop_token_ids' must contain 'eos_token_id'")
        _check(self.max_new_tokens > 0, "'max_new_tokens' must be greater than 0")
        _check(self.min_new_tokens <= self.max_new_tokens, "min_new_tokens must be less or equal max_new_tokens")
        _check(0 <= self.rng_seed < 2**64, "rng_seed")
        if self.do_sample:
            _check(self.temperature > 0, "When 'do_sample' is true, temperature must be a strictly positive float")
            _check(0 <= self.min_p < 1, "When 'do_sample' is true, min_p must be in [0.0, 1.0)")


@dataclass
class GenerationOutput:
    generated_ids: list[int]
    finish_reason: GenerationFinishReason
    generated_log_probs: list[float]


@dataclass
class PipelineMetrics:
    requests: int = 0
    scheduled_requests: int = 0
    cache_usage: float = 0.0
    cache_size_in_bytes: int = 0


@dataclass
class GenerationHandle:
    reply: list[int]
    config: GenerationConfig
    status: GenerationStatus = GenerationStatus.RUNNING
    unread: list[GenerationOutput] = field(default_factory=list)
    num_generated: int = 0

    def can_read(self) -> bool:
        return bool(self.unread)

    def read(self) -> dict[int, GenerationOutput]:
        return {0: self.unread.pop(0)}

    def get_status(self) -> GenerationStatus:
        return self.status

    def cancel(self) -> None:
        self.status = GenerationStatus.CANCEL


@dataclass
class TokenizedInputs:
    input_ids: Tensor


class Tokenizer:
    def encode(self, text: str, add_special_tokens: bool = True) -> TokenizedInputs:
        return TokenizedInputs(Tensor(numpy.array([[*text.encode()]], dtype=numpy.int64)))

    def decode(self, tokens, skip_special_tokens: bool = True) -> str:
        kept = [token for token in tokens if token < EOS or not skip_special_tokens]
        names = {EOS: b"<end>", TURN: b"<turn>"}
        return b"".join(names.get(token) or bytes([token]) for token in kept).decode(errors="replace")

    def get_vocab(self) -> dict[bytes, int]:
        return {**{bytes([byte]): byte for byte in range(256)}, b"<end>": EOS, b"<turn>": TURN}

    def get_eos_token_id(self) -> int:
        return EOS

    def apply_chat_template(self, history, add_generation_prompt, chat_template="", tools=None, extra_context=None):
        if "raise_exception" in chat_template:
            raise RuntimeError("Exception from tokenizer_impl.cpp\nMinja's error: no system role at row 1\n")
        said = "".join(f"{message['role']}:{message['content']}" for message in history)
        return f"{chat_template}{said}{extra_context or ''}"


class ContinuousBatchingPipeline:
    def __init__(self, models_path: str, scheduler_config: SchedulerConfig, device: str, properties: dict) -> None:
        if device != "CPU":
            raise RuntimeError(f"Exception from core.cpp:1:\nDevice {device!r} is not registered\n")
        self._max_num_seqs = 999 if scheduler_config.dynamic_split_fuse else scheduler_config.max_num_seqs
        self._handles: list[GenerationHandle] = []
        self._metrics = PipelineMetrics()

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def get_config(self) -> GenerationConfig:
        config = GenerationConfig()
        config.eos_token_id, config.stop_token_ids = EOS, {EOS}
        return config

    def get_metrics(self) -> PipelineMetrics:
        return self._metrics

    def add_request(self, request_id: int, input_ids: Tensor, config: GenerationConfig) -> GenerationHandle:
        config.validate()
        prompt = Tokenizer().decode(input_ids.data.reshape(-1).tolist())
        handle = GenerationHandle([*prompt.rpartition("say:")[2].encode(), EOS], config)
        if "explode" in prompt or "overflow" in prompt:
            handle.reply = [ord("x")] if "explode" in prompt else [ord("y")]
        self._handles.append(handle)
        return handle

    def step(self) -> None:
        """The figures are those of the begin of the step, as the real ones are."""
        scheduled = [handle for handle in self._handles if handle.status is GenerationStatus.RUNNING]
        scheduled = scheduled[: self._max_num_seqs]
        share = 50.0 * len(scheduled)
        self._metrics = PipelineMetrics(len(self._handles), len(scheduled), share, 1 << 20)
        for handle in scheduled:
            if handle.reply == [ord("x")]:
                raise RuntimeError("Check 'a' failed at scheduler.hpp:1:\nno block fits\n")
            self._generate(handle)
        self._handles = [handle for handle in self._handles if handle.status is GenerationStatus.RUNNING]

    def _generate(self, handle: GenerationHandle) -> None:
        config, position = handle.config, handle.num_generated
        if handle.reply == [ord("y")] and position == 2:
            handle.status = GenerationStatus.IGNORED
            return
        token = handle.reply[position] if position < len(handle.reply) else ord(".")
        stops = set() if config.ignore_eos else config.stop_token_ids or {EOS}
        if token in stops and position < config.min_new_tokens:
            token = ord("-")
        handle.num_generated += 1
        reason = GenerationFinishReason.NONE
        if token in stops:
            reason = GenerationFinishReason.STOP
        elif handle.num_generated == config.max_new_tokens:
            reason = GenerationFinishReason.LENGTH
        if reason is not GenerationFinishReason.NONE:
            handle.status = GenerationStatus.FINISHED
        handle.unread.append(GenerationOutput([token], reason, [-0.5 if config.logprobs else 0.0]))
