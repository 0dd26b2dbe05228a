"""TensorRT-LLM: `trtllm-serve` of the release lines 1.2, 1.3 and 1.4."""

from enginebay.testing.simulators.wires.tensorrt_llm.wire import WIRE

__all__ = ["WIRE"]
