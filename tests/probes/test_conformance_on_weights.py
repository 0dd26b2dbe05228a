"""The whole suite on a real model: the reference engine under two policies, and through our own server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.loadtest.hosting import serve_command
from enginebay.testing import BackendConformance

pytestmark = [pytest.mark.weights, pytest.mark.timeout(900)]

# One thread: with more, each step waits for all of them, which takes for ever on a machine that is busy otherwise.
SMALL = {"max_num_seqs": 8, "max_model_len": 1024, "num_threads": 1, "offline": True}
CONFIG = """
version: 1
model: smollm2-135m
backend: reference
engine: {max_num_seqs: 8, max_model_len: 1024}
backends: {reference: {options: {num_threads: 1, offline: true}}}
"""


class TestContinuousBatching(BackendConformance):
    never_skipped = frozenset({"stop_reason names the stop string", "token ids are those of the text"})
    time_limit_factor = 4.0

    def make_backend(self) -> Backend:
        return get_backend("reference", policy="continuous", **SMALL)

    async def kill_engine(self, backend: Any) -> None:
        os.kill(backend.inner._process.pid, signal.SIGKILL)


class TestThroughOurServer(BackendConformance):
    """`enginebay serve`, as another process."""

    time_limit_factor = 4.0
    server: ClassVar[subprocess.Popen[bytes]]
    url: ClassVar[str]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _served(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        config = tmp_path_factory.mktemp("served") / "served.yaml"
        config.write_text(CONFIG)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            cls.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            number = listener.fileno()
            command = (*serve_command(config, "reference"), "--fd", str(number))
            cls.server = subprocess.Popen(
                command, pass_fds=(number,), stdout=subprocess.DEVNULL, start_new_session=True
            )
        yield
        with suppress(ProcessLookupError):
            os.killpg(cls.server.pid, signal.SIGKILL)
        cls.server.wait()

    def make_backend(self) -> Backend:
        return get_backend("openai_http", url=self.url, start_timeout_s=300.0)

    async def kill_engine(self, backend: Backend) -> None:
        """The server and its engine. The last test: there is no other one."""
        os.killpg(self.server.pid, signal.SIGKILL)
