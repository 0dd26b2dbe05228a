"""What Triton publishes of TensorRT-LLM. The real one has a port of its own for it; here it is the same one."""

from __future__ import annotations

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exposition import Exposition

_GPU_BYTES = 64 * 1024**3


def metrics_text(engine: SimulatedEngine) -> str:
    profile = engine.profile
    text = Exposition({"model": "tensorrt_llm", "version": "1"})
    requests = {
        "active": engine.num_running,
        "context": 0,
        "max": profile.max_num_seqs,
        "scheduled": engine.num_running,
        "waiting": engine.num_waiting,
    }
    _family(text, "nv_trt_llm_request_metrics", "request_type", requests)
    memory = {"cpu": 0, "gpu": _GPU_BYTES, "pinned": 0}
    _family(text, "nv_trt_llm_runtime_memory_metrics", "memory_type", memory)
    blocks = {
        "fraction": engine.kv_usage_ratio,
        "free": profile.num_blocks - engine.num_used_blocks,
        "max": profile.num_blocks,
        "tokens_per": profile.block_size,
        "used": engine.num_used_blocks,
    }
    _family(text, "nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", blocks)
    general = {"iteration_counter": engine.metrics.num_steps}
    _family(text, "nv_trt_llm_general_metrics", "general_type", general)
    return str(text)


def _family(text: Exposition, name: str, label: str, values: dict[str, float] | dict[str, int]) -> None:
    text.family(name, "gauge", [({label: key}, value) for key, value in values.items()])
