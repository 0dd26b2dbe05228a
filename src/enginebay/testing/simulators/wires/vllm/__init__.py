"""vLLM 0.32: the OpenAI server of `vllm serve`."""

from enginebay.testing.simulators.wires.vllm.wire import WIRE

__all__ = ["WIRE"]
