"""A Python package index on loopback that serves one wheel and can break the connection in its middle."""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PACKAGE, VERSION = "enginebay-tiny-weights", "1.0"
WHEEL = "enginebay_tiny_weights-1.0-py3-none-any.whl"
MEMBER = "enginebay_tiny_weights/tiny.gguf"


def write_wheel(path: Path, gguf: bytes) -> None:
    info = "enginebay_tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(MEMBER, gguf)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@dataclass
class FakeIndex:
    url: str = ""
    body: bytes = b""
    break_after: list[int] = field(default_factory=list)
    """Bytes that each next transfer sends before its connection breaks; when it is empty, transfers are whole."""
    wheel_ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request for the wheel."""
    num_requests: int = 0
    stall: threading.Event | None = None
    """Where set, a transfer that was to break waits for this event instead."""
    reached_stall: threading.Event = field(default_factory=threading.Event)


@contextmanager
def fake_index(body: bytes) -> Iterator[FakeIndex]:
    index = FakeIndex(body=body)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(index))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield index
    finally:
        if index.stall:
            index.stall.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(index: FakeIndex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.num_requests += 1
            if self.path == f"/simple/{PACKAGE}/":
                self._send(200, f'<html><body><a href="/files/{WHEEL}">{WHEEL}</a></body></html>'.encode(), "text/html")
            elif self.path == f"/files/{WHEEL}":
                self._send_wheel()
            else:
                self._send(404, b"", "text/plain")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _send_wheel(self) -> None:
            asked = self.headers.get("Range")
            index.wheel_ranges.append(asked)
            match = re.fullmatch(r"bytes=(\d+)-", asked or "")
            start = int(match[1]) if match else 0
            self.send_response(206 if match else 200)
            self.send_header("ETag", '"tiny"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(index.body) - start))
            if match:
                self.send_header("Content-Range", f"bytes {start}-{len(index.body) - 1}/{len(index.body)}")
            self.end_headers()
            if not index.break_after:
                self.wfile.write(index.body[start:])
                return
            self.wfile.write(index.body[start : start + index.break_after.pop(0)])
            self.wfile.flush()
            index.reached_stall.set()
            if index.stall:
                index.stall.wait(30)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
