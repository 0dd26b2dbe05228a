"""Keeps what a run sends. While it goes on, references alone: everything is read and hashed when it has ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.loadtest.sent.body import read_body, without_identity
from enginebay.loadtest.sent.sent import Sent
from enginebay.wire.http_client import SendListener

ID_HEADER = b"x-request-id: "


@runtime_checkable
class TellsSends(Protocol):
    def add_send_listener(self, listener: SendListener) -> None: ...

    def remove_send_listener(self, listener: SendListener) -> None: ...


class SendLog:
    """Of one process in one run. `is_kept` is False where the backend has no wire that could be listened to."""

    def __init__(self) -> None:
        self._sends: list[tuple[float, bytes, bytes]] = []
        self.is_kept = False

    @contextmanager
    def listening(self, backend: Backend) -> Iterator[None]:
        inner = backend.inner if isinstance(backend, GuardedBackend) else backend
        if not isinstance(inner, TellsSends):
            yield
            return
        self.is_kept = True
        inner.add_send_listener(self._note)
        try:
            yield
        finally:
            inner.remove_send_listener(self._note)

    def _note(self, sent_at: float, head: bytes, body: bytes) -> None:
        self._sends.append((sent_at, head, body))

    def read(self, *, started_at: float) -> list[Sent]:
        """In the order of sending. Takes milliseconds for each request: for after the run."""
        return [_sent(at - started_at, head, body) for at, head, body in self._sends]


def request_id_of(head: bytes) -> bytes:
    """Empty where the head has none."""
    begin = head.find(ID_HEADER)
    return head[begin + len(ID_HEADER) : head.index(b"\r", begin)] if begin >= 0 else b""


def _sent(at: float, head: bytes, body: bytes) -> Sent:
    request_id = request_id_of(head)
    read = read_body(body)
    load = without_identity(body, model=read.model if read else None, request_id=request_id)
    return Sent(
        index=_index(request_id),
        at=at,
        path=head.split(b" ", 2)[1].decode("latin-1"),
        num_bytes=len(body),
        body_sha256=hashlib.sha256(body).hexdigest(),
        load_sha256=hashlib.sha256(load).hexdigest(),
        prompt_form=read.prompt_form if read else "unknown",
        prompt_sha256=read.prompt_sha256 if read else "",
        sampling=read.sampling if read else {},
        others=read.others if read else {},
    )


def _index(request_id: bytes) -> int:
    """Ids of a run end in the index of the planned request; -1 for what the run has not sent."""
    index = request_id.rpartition(b"-")[2]
    return int(index) if index.isdigit() else -1
