"""Engines of these tests: small programs that answer, or misbehave, as real ones do. `python engine_scripts.py NAME`.

Where one has come to, it says on its log; nothing here is timed.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    polls_left = 0

    def do_GET(self) -> None:
        loading = Handler.polls_left > 0
        Handler.polls_left -= 1
        self.send_response(503 if loading else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        print(f"asked for {self.path}", flush=True)


def serve(port: str, polls: str = "0") -> None:
    """Ready at once, or after that many answers with 503."""
    Handler.polls_left = int(polls)
    with http.server.HTTPServer(("127.0.0.1", int(port)), Handler) as server:
        print("serving", flush=True)
        server.serve_forever()


def say_environment() -> None:
    for name, value in os.environ.items():
        print(f"{name}={value}", flush=True)


def die(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)
    sys.exit(3)


def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def hang() -> None:
    print(f"pid {os.getpid()}", flush=True)
    while True:
        time.sleep(3600)


def graceful() -> None:
    def end(number: int, frame: object) -> None:
        print("ended gracefully", flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    hang()


def leave_group() -> None:
    """A grandchild in a session of its own, whose parent has ended."""
    again = [sys.executable, __file__]
    subprocess.Popen([*again, "fork_and_end"], start_new_session=True).wait()
    hang()


def fork_and_end() -> None:
    subprocess.Popen([sys.executable, __file__, "stubborn"], start_new_session=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
