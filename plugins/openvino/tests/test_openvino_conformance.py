"""The conformance suite on the real engine, with the demo model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.plugins import get_backend
from enginebay.testing.conformance import BackendConformance

ENGINE = Path(".venvs/openvino")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not ENGINE.is_dir(), reason="no OpenVINO GenAI: python plugins/openvino/install_openvino.py"),
]


class TestOpenVino(BackendConformance):
    time_limit_factor = 3.0

    def make_backend(self) -> GuardedBackend:
        return get_backend("openvino", venv=str(ENGINE), max_num_seqs=32)

    make_loading_backend = make_backend

    async def kill_engine(self, backend: Backend) -> None:
        assert isinstance(backend, GuardedBackend)
        os.kill(backend.inner.pid, signal.SIGKILL)  # type: ignore[attr-defined]
