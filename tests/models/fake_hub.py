"""A Hugging Face hub on loopback: one repository, range requests, and connections that break on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPOSITORY = "tiny/llama"
MAIN_COMMIT, OLD_COMMIT = "a" * 40, "b" * 40


@dataclass
class FakeHub:
    commits: dict[str, dict[str, bytes]]
    """Files of each commit, by path."""
    revisions: dict[str, str]
    """Commit of each branch and tag."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and path."""
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    """File and Range header of each transfer."""
    break_after: dict[str, int] = field(default_factory=dict)
    """By file: bytes that its next transfer sends before it stops."""
    stall: threading.Event | None = None
    """Where set, a transfer that stops waits for this event instead of breaking its connection."""
    reached_stall: threading.Event = field(default_factory=threading.Event)
    refuse: tuple[int, str] | None = None
    """Status and `X-Error-Code` of every answer, where set."""

    @property
    def files_sent(self) -> set[str]:
        return {name for name, _ in self.ranges}


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def fake_hub(files: dict[str, bytes], old_files: dict[str, bytes] | None = None) -> Iterator[FakeHub]:
    hub = FakeHub({MAIN_COMMIT: files, OLD_COMMIT: old_files or files}, {"main": MAIN_COMMIT, "v1": OLD_COMMIT})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        if hub.stall:
            hub.stall.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if hub.refuse:
                self._send(hub.refuse[0], {"X-Error-Code": hub.refuse[1]}, b"{}")
            elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/revision/(.+)", path):
                self._send_info(match[1])
            elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/(\w+)", path):
                self._send_tree(match[1])
            elif match := re.fullmatch(rf"/{REPOSITORY}/resolve/(\w+)/(.+)", path):
                self._send_file(match[1], match[2])
            else:
                self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}")

        def _send_info(self, revision: str) -> None:
            commit = hub.revisions.get(revision, revision)
            if commit not in hub.commits:
                self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
                return
            files = [{"rfilename": name} for name in hub.commits[commit]]
            self._send_json({"id": REPOSITORY, "sha": commit, "siblings": files})

        def _send_tree(self, commit: str) -> None:
            self._send_json(
                [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": "c" * 40,
                        "lfs": {"oid": etag(content), "size": len(content), "pointerSize": 130},
                    }
                    for name, content in hub.commits[commit].items()
                ]
            )

        def _send_file(self, commit: str, name: str) -> None:
            content = hub.commits[commit][name]
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(match[1]) if match else 0
            headers = {
                "ETag": f'"{etag(content)}"',
                "X-Linked-Etag": f'"{etag(content)}"',
                "X-Linked-Size": str(len(content)),
                "X-Repo-Commit": commit,
                "Accept-Ranges": "bytes",
            }
            if match:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if self.command == "HEAD":
                self._send(200, headers, content)
                return
            hub.ranges.append((name, self.headers.get("Range")))
            self._send(206 if match else 200, headers, content[start:], stop_after=hub.break_after.pop(name, None))

        def _send_json(self, value: object) -> None:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

        def _send(self, status: int, headers: dict[str, str], body: bytes, *, stop_after: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[:stop_after])
            if stop_after is not None:
                self.wfile.flush()
                hub.reached_stall.set()
                if hub.stall:
                    hub.stall.wait(30)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
