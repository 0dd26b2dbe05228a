"""The server that a backend owns: a child process or a container. `backends/launch/` has both."""

from __future__ import annotations

from typing import Protocol

from enginebay.errors import StartFailed


class OwnedServer(Protocol):
    """Single use. `launch`, then `stop`, whatever happened between."""

    async def launch(self) -> str:
        """Start it and return its address, `http://127.0.0.1:PORT`; it is not ready yet. Raises StartFailed."""
        ...

    async def check_listener(self) -> None:
        """Raises StartFailed where somebody else answers at the address: whoever took the port while it loaded."""
        ...

    @property
    def is_alive(self) -> bool: ...

    async def wait_ended(self) -> None:
        """Return when the process has ended and its log is complete."""
        ...

    def start_failed(self, what: str) -> StartFailed:
        """With the engine's last lines and the likely cause."""
        ...

    def how_it_ended(self) -> str: ...

    async def stop(self) -> None:
        """Gracefully, then by force. Idempotent; leaves no process, port or file behind."""
        ...
