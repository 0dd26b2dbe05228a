"""`hf:` sources, through the real huggingface_hub, against a hub on loopback."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import MAIN_COMMIT, OLD_COMMIT, REPOSITORY, FakeHub, etag, fake_hub

from enginebay.errors import ChecksumMismatch, DownloadFailed, ModelError, ModelNotFound
from enginebay.models.cache import ModelCache
from enginebay.models.hub import pull_snapshot
from enginebay.models.hub_records import HubRecords, HubSource
from enginebay.models.listing import cached_models
from enginebay.models.progress import ProgressCallback, PullProgress, ignore_progress

WEIGHTS = bytes(range(256)) * 8000
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"chat_template": ""}',
    "generation_config.json": b'{"eos_token_id": 2}',
    "LICENSE": b"Apache-2.0",
}
UNWANTED = {
    "README.md": b"# Tiny",
    "pytorch_model.bin": WEIGHTS,
    "consolidated.safetensors": WEIGHTS,
    "original/params.json": b"{}",
    "onnx/model.onnx": WEIGHTS,
    "model.gguf": WEIGHTS,
}
SOURCE = HubSource(REPOSITORY, None)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub({**FILES, **UNWANTED}, {**FILES, "config.json": b'{"model_type": "llama", "old": true}'}) as hub:
        yield hub
    from huggingface_hub import close_session

    close_session()


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def pull(
    hub: FakeHub,
    cache: ModelCache,
    source: HubSource = SOURCE,
    *,
    refresh: bool = False,
    offline: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Path:
    return pull_snapshot(
        source,
        cache,
        files_dir=cache.root / "hub-files",
        refresh=refresh,
        offline=offline,
        progress=progress,
        endpoint=hub.url,
    )


def test_weights_tokenizer_and_configuration_are_fetched_and_nothing_else(hub: FakeHub, cache: ModelCache):
    directory = pull(hub, cache)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES
    assert hub.files_sent == set(FILES)


def test_a_pulled_model_is_found_again_without_a_request(hub: FakeHub, cache: ModelCache):
    directory = pull(hub, cache)
    hub.requests.clear()
    assert pull(hub, cache) == directory
    assert pull(hub, cache, offline=True) == directory
    assert hub.requests == []


def test_a_model_that_is_not_here_is_not_fetched_offline(hub: FakeHub, cache: ModelCache):
    with pytest.raises(ModelNotFound, match=r"offline.*enginebay models pull hf:tiny/llama"):
        pull(hub, cache, offline=True)
    assert hub.requests == []


def test_a_revision_is_a_model_of_its_own(hub: FakeHub, cache: ModelCache):
    assert pull(hub, cache).name == MAIN_COMMIT
    old = pull(hub, cache, HubSource(REPOSITORY, "v1"))
    assert old.name == OLD_COMMIT
    assert b"old" in (old / "config.json").read_bytes()
    assert pull(hub, cache, HubSource(REPOSITORY, MAIN_COMMIT)).name == MAIN_COMMIT


def test_a_moved_branch_is_followed_only_when_asked(hub: FakeHub, cache: ModelCache):
    before = pull(hub, cache)
    hub.revisions["main"] = OLD_COMMIT
    assert pull(hub, cache) == before
    after = pull(hub, cache, refresh=True)
    assert after.name == OLD_COMMIT
    assert pull(hub, cache) == after


def test_a_connection_that_breaks_is_continued_where_it_broke(
    hub: FakeHub, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
):
    # The library keeps whole pieces of this size, 10 MB by default.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.break_after = {"model.safetensors": 500_000}
    directory = pull(hub, cache)
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert [asked for name, asked in hub.ranges if name == "model.safetensors"] == [None, "bytes=500000-"]


def test_content_that_is_not_what_its_hash_says_is_refused(hub: FakeHub, cache: ModelCache):
    wrong = bytes(len(WEIGHTS))
    claimed = etag(WEIGHTS)
    directory = pull(hub, cache)
    blob = (directory / "model.safetensors").resolve()
    assert blob.name == claimed
    blob.write_bytes(wrong)
    with pytest.raises(ChecksumMismatch, match=f"expected {claimed}"):
        pull(hub, cache, refresh=True)


def test_a_snapshot_that_was_deleted_is_fetched_again(hub: FakeHub, cache: ModelCache):
    directory = pull(hub, cache)
    (directory / "model.safetensors").resolve().unlink()
    (directory / "model.safetensors").unlink()
    assert (pull(hub, cache) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_repository_without_safetensors_is_refused(cache: ModelCache):
    with fake_hub({"config.json": b"{}", "model.gguf": WEIGHTS}) as hub, pytest.raises(ModelNotFound, match="weights"):
        pull(hub, cache)
    assert cached_models(cache.root) == []


def test_progress_counts_bytes_up_to_the_total(hub: FakeHub, cache: ModelCache):
    seen: list[PullProgress] = []
    pull(hub, cache, progress=seen.append)
    in_bytes = [progress for progress in seen if progress.unit == "bytes"]
    assert max(progress.completed for progress in in_bytes) == sum(map(len, FILES.values()))
    assert in_bytes[-1].total == sum(map(len, FILES.values()))


def test_a_pulled_model_is_listed_with_its_size(hub: FakeHub, cache: ModelCache):
    pull(hub, cache, HubSource(REPOSITORY, "v1"))
    [listed] = cached_models(cache.root)
    assert listed.source == "hf:tiny/llama@v1"
    assert listed.num_bytes == sum(path.stat().st_size for path in listed.directory.iterdir())


def test_a_broken_record_is_no_record(hub: FakeHub, cache: ModelCache):
    directory = pull(hub, cache)
    for path in (cache.root / "hub").iterdir():
        path.write_text("{")
    assert list(HubRecords(cache.root).entries()) == []
    assert pull(hub, cache) == directory


@pytest.mark.parametrize(
    ("refusal", "error", "words"),
    [
        ((404, "RepoNotFound"), ModelNotFound, "not on the hub, or is private"),
        ((404, "RevisionNotFound"), ModelNotFound, "no such revision"),
        ((403, "GatedRepo"), ModelError, "gated: accept its terms at .* HF_TOKEN"),
        ((500, ""), DownloadFailed, "cannot download hf:tiny/llama"),
    ],
)
def test_a_refusal_of_the_hub_is_told_with_what_to_do(
    hub: FakeHub, cache: ModelCache, refusal: tuple[int, str], error: type[ModelError], words: str
):
    hub.refuse = refusal
    with pytest.raises(error, match=words):
        pull(hub, cache)


def test_a_hub_that_cannot_be_reached_is_a_failed_download(cache: ModelCache):
    with fake_hub(FILES) as hub:
        pass
    with pytest.raises(DownloadFailed, match="cannot download hf:tiny/llama"):
        pull(hub, cache)


KILLED_PULL = """
import sys
from pathlib import Path
from enginebay.models.sources import resolve_model

def tell(progress):
    if progress.unit == "files":
        print(progress.completed, flush=True)

print(resolve_model("hf:tiny/llama", cache_dir=Path(sys.argv[1]), progress=tell))
"""


def test_after_a_kill_the_next_pull_fetches_only_what_is_missing(hub: FakeHub, tmp_path: Path):
    """The whole way, in a process of its own: HF_ENDPOINT, `resolve_model`, SIGKILL in the middle of the weights."""
    hub.break_after, hub.stall = {"model.safetensors": 1_000_000}, threading.Event()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", KILLED_PULL, str(tmp_path / "cache")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        while killed.stdout.readline() != f"{len(FILES) - 1}\n":
            assert killed.poll() is None
        assert hub.reached_stall.wait(30)
        killed.kill()
    hub.stall.set()
    assert cached_models(tmp_path / "cache") == []
    assert hub.files_sent == set(FILES)
    hub.ranges.clear()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    directory = Path(second.stdout.splitlines()[-1])
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES
    assert hub.files_sent == {"model.safetensors"}
