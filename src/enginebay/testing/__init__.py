"""For those who write backends or test against one: a fake clock, a fake backend, a scripted HTTP server.

Nothing here is an engine: `ScriptedServer` says so in every answer, and `FakeBackend` in its `info`.
"""

from enginebay.testing.fake_backend import FakeBackend, Pause, Stall, Step, say_tokens
from enginebay.testing.fake_clock import FakeClock
from enginebay.testing.scripted_server import ScriptedServer
from enginebay.testing.server_protocol import ReceivedRequest
from enginebay.testing.server_script import Fault, Script

__all__ = [
    "FakeBackend",
    "FakeClock",
    "Fault",
    "Pause",
    "ReceivedRequest",
    "Script",
    "ScriptedServer",
    "Stall",
    "Step",
    "say_tokens",
]
