"""The three words of ASGI, and how a connection is cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def abort_connection(send: Send) -> bool:
    """Drop the connection with what is buffered for it; False under a server that gives no way to.

    ASGI has no word for it. Under uvicorn `send` is a method of the object that holds the transport; merely closing
    would keep the buffer until a peer that reads nothing has taken it.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    abort = getattr(transport, "abort", None)  # uvloop's transports have no base of asyncio's
    if not callable(abort):
        return False
    abort()
    return True
