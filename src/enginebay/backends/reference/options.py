"""`options:` of a reference backend: what no other engine has a word for."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
MAX_THREADS_PER_CORE = 4


class ReferenceOptions(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    policy: Literal["naive", "static", "continuous", "dynamic"] = Field(
        "continuous",
        description="How requests share the model: one at a time, fixed batches, step by step, or step by step in a "
        "batch that follows the queue.",
    )
    batch_rule: Literal["follow_queue", "lesson"] = Field(
        "follow_queue",
        description="How a dynamic batch follows the queue, up to max_num_seqs (256 where it is left out) and "
        "max_num_batched_tokens: a slot for everyone who is here, by doubling and halving, or 256 slots while more "
        "than 100 wait, else 32.",
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda` or `cuda:N`.")
    block_size: PositiveInt = Field(16, description="Tokens in one KV block.")
    num_blocks: PositiveInt | None = Field(
        None, description="KV blocks. At most one of this, kv_cache_bytes and engine.gpu_memory_fraction is given."
    )
    kv_cache_bytes: PositiveInt | None = Field(
        None,
        description="Most memory that the KV cache may take; it is no larger than max_num_seqs full contexts. 2 GiB "
        "where neither this nor num_blocks nor engine.gpu_memory_fraction is given.",
    )
    static_batch_timeout_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        0.2, description="How long the static policy waits for a full batch; at most an hour."
    )
    num_threads: PositiveInt | None = Field(
        None, description="CPU threads; by default every core it may use, at most four for each of the machine."
    )
    kernels: Literal["auto", "native", "packed", "plain"] = Field(
        "auto",
        description="Form of the layers: our own AMX kernels, PyTorch's packed weights, PyTorch as everyone reads it, "
        "or the fastest of these that the machine has.",
    )
    batch_invariant: bool = Field(
        False,
        description="Give a request, to the bit, what it gets alone: whatever runs beside it, however its prompt is "
        "cut up, and when it goes on in another engine (resume_token_ids). The native kernels do so anyway; without "
        "them everything takes longer, as rows are then multiplied one by one.",
    )
    speculative_self_draft: str | None = Field(
        None,
        pattern=r"^(int8|first_layers:[1-9]\d*)$",
        description="Let the model draft for itself: `first_layers:N` cuts it off after N layers, `int8` is its own "
        "int8 form. Both read the KV cache of the model and need none of their own.",
    )
    speculative_num_tokens: PositiveInt = Field(
        4, description="Most tokens that a draft model, or the model itself, drafts for a step."
    )
    speculative_adaptive: bool = Field(
        True,
        description="Draft as many tokens as a request's acceptance rate is worth beside the others in its step, and "
        "none where that is too low; otherwise always the most.",
    )
    smooth_int8: bool = Field(
        True,
        description="With quantization int8: balance the channels of activations and weights first (SmoothQuant). "
        "It loads the model a second time.",
    )
    start_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        300.0, description="How long loading the model may take."
    )
    max_logprobs: Annotated[int, Field(ge=0)] = Field(20, description="Most alternatives that a request may ask for.")
    max_stop_strings: PositiveInt = Field(64, description="Most stop strings that a request may give.")
    trust_request_chat_template: bool = Field(
        False, description="Let a request bring its own chat template: it runs sandboxed, but without a time limit."
    )
    offline: bool = Field(False, description="Never fetch the model: it must be in the cache already.")

    @model_validator(mode="after")
    def _check_kernels(self) -> ReferenceOptions:
        if self.batch_invariant and self.kernels == "packed":
            raise ValueError(
                "batch_invariant: packed kernels sum in another order for another number of rows; "
                "use kernels auto, native or plain, or leave batch_invariant out"
            )
        return self

    @field_validator("num_threads")
    @classmethod
    def _check_num_threads(cls, num_threads: int | None) -> int | None:
        """Threads are started at once: too many take the engine's process down before it can say why."""
        most = MAX_THREADS_PER_CORE * (os.cpu_count() or 1)
        if num_threads is not None and num_threads > most:
            raise ValueError(f"num_threads is at most {most} on this machine ({MAX_THREADS_PER_CORE} for each core)")
        return num_threads
