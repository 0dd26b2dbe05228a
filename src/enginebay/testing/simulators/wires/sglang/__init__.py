"""SGLang 0.5.23: the routes of `sglang.launch_server`."""

from enginebay.testing.simulators.wires.sglang.wire import WIRE

__all__ = ["WIRE"]
