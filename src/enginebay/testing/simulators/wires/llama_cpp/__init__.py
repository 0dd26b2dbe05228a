"""llama.cpp b11434: the routes of `llama-server`."""

from enginebay.testing.simulators.wires.llama_cpp.wire import WIRE

__all__ = ["WIRE"]
