"""For those who write backends or test against one: conformance, a fake clock, a fake backend, a scripted HTTP server.

Nothing here is an engine: `ScriptedServer` says so in every answer, and `FakeBackend` in its `info`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginebay.testing.conformance import BackendConformance
    from enginebay.testing.fake_backend import FakeBackend, Pause, Stall, Step, fake_token_ids, say_tokens
    from enginebay.testing.fake_clock import FakeClock
    from enginebay.testing.scripted_server import ScriptedServer
    from enginebay.testing.server_protocol import ReceivedRequest
    from enginebay.testing.server_script import Fault, Script

# Loaded when first used: `python -m enginebay.testing.scripted_server` must not find itself imported already.
_HOME_OF = {
    "BackendConformance": "conformance",
    "FakeBackend": "fake_backend",
    "FakeClock": "fake_clock",
    "Fault": "server_script",
    "Pause": "fake_backend",
    "ReceivedRequest": "server_protocol",
    "Script": "server_script",
    "ScriptedServer": "scripted_server",
    "Stall": "fake_backend",
    "Step": "fake_backend",
    "fake_token_ids": "fake_backend",
    "say_tokens": "fake_backend",
}

__all__ = [
    "BackendConformance",
    "FakeBackend",
    "FakeClock",
    "Fault",
    "Pause",
    "ReceivedRequest",
    "Script",
    "ScriptedServer",
    "Stall",
    "Step",
    "fake_token_ids",
    "say_tokens",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'enginebay.testing' has no attribute {name!r}")
    return getattr(import_module(f"enginebay.testing.{home}"), name)
