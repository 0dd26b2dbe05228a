"""Settings of the reference engine: plain values, checked where they come in (`backends/reference`)."""

from __future__ import annotations

import msgspec


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    model_dir: str
    dtype: str = "bfloat16"
    """float32, bfloat16 or float16."""
    device: str = "cpu"
    policy: str = "continuous"
    """naive, static, continuous or dynamic."""
    batch_rule: str = "follow_queue"
    """Of the dynamic policy: follow_queue or lesson. max_num_seqs and max_num_batched_tokens are its upper bounds."""
    max_num_seqs: int = 32
    max_model_len: int | None = None
    """None is the model's own."""
    max_num_batched_tokens: int = 2048
    chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    """Not under the static policy, which computes in place what it has already."""
    block_size: int = 16
    num_blocks: int | None = None
    """KV blocks without the scratch block. Give one of this and the two below: the first that is given decides."""
    kv_cache_bytes: int | None = None
    """Most that the KV cache takes; it is no larger than max_num_seqs full contexts. 2 GiB where nothing is given."""
    gpu_memory_fraction: float | None = None
    """Weights, one step and the KV cache take it together: of all memory of the GPU, or what the CPU has available."""
    kv_cache_dtype: str = "auto"
    """int8, or auto for the dtype."""
    static_batch_timeout_s: float = 0.2
    """How long the static policy waits for a full batch."""
    num_threads: int | None = None
    """None is every core this process may use."""
    kernels: str = "auto"
    """native, packed, plain (PyTorch as everyone reads it), or auto: the fastest that this machine has."""
    quantization: str | None = None
    """int8, int8_weight_only, or None for the dtype."""
    smooth_int8: bool = True
    """With int8: balance the channels of activations and weights first, see `smoothing`."""
    batch_invariant: bool = False
    """A request's logits, to the bit, are those that it gets alone: whatever runs beside it, however it is chunked."""
    speculative_ngram: int | None = None
    """Most tokens drafted from what came before in the text. At most one of this and the two below."""
    speculative_draft_dir: str | None = None
    """Directory of a draft model with the same vocabulary."""
    speculative_self_draft: str | None = None
    """first_layers:N or int8: the model itself as its draft, cut off after N layers, or in int8."""
    speculative_num_tokens: int = 4
    """Most tokens that a draft model drafts."""
    speculative_adaptive: bool = True
    """Draft as many as a request's acceptance rate is worth, else always the most."""
