from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 60


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """`enginebay serve configs/serve-reference.yaml` on a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "enginebay.cli", "serve", str(ROOT / "configs" / "serve-reference.yaml")]
        server = subprocess.Popen(
            [*command, "--fd", str(listener.fileno()), "--die-with-parent"],
            pass_fds=[listener.fileno()],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        _wait_until_ready(server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)
        assert server.stdout is not None
        server.stdout.close()


def _wait_until_ready(server: subprocess.Popen[str]) -> None:
    """The server says so itself, in one line; a watchdog ends a server that never does."""
    watchdog = threading.Timer(START_LIMIT_S, server.kill)
    watchdog.start()
    lines: list[str] = []
    assert server.stdout is not None
    for line in server.stdout:
        lines.append(line)
        if line.startswith("ready:"):
            watchdog.cancel()
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return
    watchdog.cancel()
    pytest.fail("the server never became ready:\n" + "".join(lines))
