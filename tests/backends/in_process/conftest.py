from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.in_process.backend import InProcessBackend
from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.types import Capabilities, Feature

MakeBackend = Callable[..., GuardedBackend]


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (directory / "model.safetensors").touch()
    return directory


@pytest.fixture
def make_backend(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> MakeBackend:
    """Of a scripted engine, whose start `on_start` directs; further keywords go to InProcessBackend."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "packages"))

    def make(*, on_start: str = "", venv: str | None = None, keywords: dict[str, object] | None = None, **more: object):
        context = BackendContext(
            name="scripted", model=str(model_dir), options=None, settings={}, clock=MonotonicClock(), venv=venv
        )
        backend = InProcessBackend(
            context,
            kind="scripted",
            worker="scripted_engine.engine:main",
            packages=("scripted_engine",),
            capabilities=Capabilities(features=frozenset(Feature)),
            plan=LaunchPlan(outcomes=(), keywords={"on_start": on_start, **(keywords or {})}),
            **more,  # type: ignore[arg-type]
        )
        return GuardedBackend(backend)

    return make
