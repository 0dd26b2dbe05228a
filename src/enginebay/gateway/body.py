"""Reads a request's body within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enginebay.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest, UnsupportedContentType
from enginebay.gateway.asgi import Receive


class ClientGone(Exception):
    """The client disconnected or was cut off: no error of ours, there is only nobody left to answer."""


async def read_body(
    header: Callable[[bytes], bytes | None], receive: Receive, *, max_bytes: int, timeout_s: float | None
) -> bytes:
    """Never holds more than max_bytes and one piece. What is left unread the server discards as it comes.

    timeout_s: None for a body that is there already.
    """
    if int(header(b"content-length") or 0) > max_bytes:  # the server has checked that it is a number
        raise BodyTooLarge(limit_bytes=max_bytes)
    if (header(b"content-encoding") or b"identity") != b"identity":
        raise InvalidRequest("a compressed body is not read: send it plain")
    if timeout_s is None:
        return await _collect(receive, max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _collect(receive, max_bytes)
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not arrive within {timeout_s:g} s") from None


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("disconnected while it sent its body")
        piece = message.get("body", b"")
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            raise BodyTooLarge(limit_bytes=max_bytes)
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def demand_json(content_type: bytes | None) -> None:
    """Raises UnsupportedContentType for anything but `application/json`, with or without parameters."""
    media_type = (content_type or b"").split(b";", 1)[0].strip().lower()
    if media_type != b"application/json":
        shown = media_type.decode("latin-1")[:80] or "missing"
        raise UnsupportedContentType(f"the content-type is {shown}: send the body with content-type application/json")
