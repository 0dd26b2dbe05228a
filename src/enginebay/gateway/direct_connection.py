"""What a server of ours tells of a connection beyond ASGI, so that nothing has to wait or watch for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from enginebay.gateway.asgi import Send


class DirectConnection(ABC):
    """The object whose method `send` is. Under another server there is none, and the words of ASGI have to do."""

    @property
    @abstractmethod
    def is_writable(self) -> bool:
        """Whether the next `send` returns without waiting for the client."""

    @property
    @abstractmethod
    def has_whole_body(self) -> bool:
        """Whether all of the request's body is there."""

    @property
    @abstractmethod
    def is_gone(self) -> bool:
        """Whether the client left before its answer was complete."""

    @abstractmethod
    def tell_when_gone(self, callback: Callable[[], None] | None) -> None:
        """Call it once, when the client leaves before its answer is complete; None takes that back."""


def direct_connection(send: Send) -> DirectConnection | None:
    owner = getattr(send, "__self__", None)
    return owner if isinstance(owner, DirectConnection) else None
