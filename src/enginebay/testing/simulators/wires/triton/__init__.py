"""Triton over TensorRT-LLM: the generate endpoints of its ensemble."""

from enginebay.testing.simulators.wires.triton.wire import WIRE

__all__ = ["WIRE"]
