"""Engines of these tests: small programs that answer, or misbehave, as real ones do. `python engine_scripts.py NAME`.

Each says where it has come to over a connection to the test, whose end is the end of the process: nothing is timed.
"""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import time

AGAIN = [sys.executable, __file__]


def report(port: str, *words: str) -> socket.socket:
    """Kept open by the caller for as long as it lives."""
    connection = socket.create_connection(("127.0.0.1", int(port)))
    say_where(connection, *words)
    return connection


def say_where(connection: socket.socket, *words: str) -> None:
    connection.sendall(f"{' '.join(words)} {os.getpid()}\n".encode())


class Handler(http.server.BaseHTTPRequestHandler):
    answers_left = 0

    def do_GET(self) -> None:
        Handler.answers_left -= 1
        self.send_response(503 if Handler.answers_left >= 0 else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """An answer that begins, and never ends."""
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b"a token")
        self.wfile.flush()
        while True:
            time.sleep(3600)

    def log_message(self, format: str, *args: object) -> None:
        print(f"asked for {self.path}", flush=True)


def serve(port: str, num_refusals: str = "0") -> None:
    """Ready after that many answers with 503."""
    Handler.answers_left = int(num_refusals)
    print("loading", os.environ.get("ENGINE_API_KEY"), flush=True)
    with http.server.HTTPServer(("127.0.0.1", int(port)), Handler) as server:
        server.serve_forever()


def serve_from_child(port: str) -> None:
    """In a session of its own, whose parent has ended."""
    subprocess.run([*AGAIN, "fork_server", port], start_new_session=True, check=True)
    while True:
        time.sleep(3600)


def fork_server(port: str) -> None:
    subprocess.Popen([*AGAIN, "serve", port], start_new_session=True)


def say_environment() -> None:
    for name, value in os.environ.items():
        print(f"{name}={value}", flush=True)


def say(*words: str) -> None:
    print(*words, flush=True)


def die(text: str, code: str = "3") -> None:
    print(text, flush=True)
    sys.exit(int(code))


def hang(port: str, *words: str) -> None:
    connection = report(port, *(words or ["hangs"]))
    while connection:
        time.sleep(3600)


def stubborn(port: str, *words: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(port, *(words or ["stubborn"]))


def graceful(port: str) -> None:
    def end(number: int, frame: object) -> None:
        connection.sendall(b"ended gracefully\n")
        sys.exit(0)

    connection = socket.create_connection(("127.0.0.1", int(port)))
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    say_where(connection, "graceful")
    while True:
        time.sleep(3600)


def leave_group(port: str) -> None:
    """With a stubborn grandchild in a session of its own, whose parent has ended."""
    subprocess.run([*AGAIN, "fork_and_end", port], start_new_session=True, check=True)
    hang(port, "parent")


def fork_and_end(port: str) -> None:
    subprocess.Popen([*AGAIN, "stubborn", port, "grandchild"], start_new_session=True)


def leave_child(port: str) -> None:
    """Ends when it is told to; its child stays."""
    subprocess.Popen([*AGAIN, "hang", port, "child"])
    report(port, "parent").recv(1)


def show_file(path: str) -> None:
    with open(path) as file:
        print(path, file.read(), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
