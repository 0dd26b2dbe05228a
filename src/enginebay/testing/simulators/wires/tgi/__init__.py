"""Text Generation Inference 3.3.7 on the wire: what a client, a flag or a metric name of the real one meets here too.

Not played: tools, images, `best_of` above one, `grammar` (the answer keeps to none), LoRA adapters, the routes
/invocations and /vertex. What is not played is refused, but for `grammar` and `model`, which TGI itself may ignore.
"""

from __future__ import annotations

from enginebay.testing.simulators.wire import WireSpec
from enginebay.testing.simulators.wires.tgi.flags import FLAGS, configure
from enginebay.testing.simulators.wires.tgi.wire import TgiWire

WIRE = WireSpec(kind="tgi", version="3.3.7", flags=FLAGS, configure=configure, create=TgiWire)

__all__ = ["WIRE"]
