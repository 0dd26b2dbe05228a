"""Models of the Hugging Face hub, through huggingface_hub.

Files stay in the hub's own cache (HF_HOME), which other tools share, unless a cache folder is named. A record of ours
says that a snapshot is complete and checked: with it, nothing is sent, and the weights do not change under a running
service when someone moves the branch; `enginebay models pull` asks the hub again.
"""

from __future__ import annotations

from pathlib import Path

from enginebay.errors import DownloadFailed, ModelError, ModelNotFound
from enginebay.models.cache import ModelCache
from enginebay.models.checksums import check_sha256
from enginebay.models.directory import check_model_directory
from enginebay.models.extras import models_extra
from enginebay.models.hub_progress import progress_bar_class
from enginebay.models.hub_records import HubRecords, HubSource
from enginebay.models.progress import ProgressCallback, PullProgress

# Weights, configuration and tokenizer, in one form only: repositories often hold the same weights several times.
# Python files are for models that need `trust_remote_code`; nothing runs them otherwise.
WANTED_FILES = [
    "*.safetensors", "*.json", "*.model", "*.tiktoken", "*.jinja", "merges.txt", "vocab.txt", "*.py", "LICENSE*",
]  # fmt: skip
UNWANTED_FILES = ["*/*", "consolidated*"]

SHA256_LENGTH = 64


def pull_snapshot(
    source: HubSource,
    cache: ModelCache,
    *,
    files_dir: Path | None,
    refresh: bool,
    offline: bool,
    progress: ProgressCallback,
    endpoint: str | None = None,
) -> Path:
    """Return the snapshot's directory. files_dir: instead of the hub's own cache; endpoint: instead of HF_ENDPOINT."""
    records = HubRecords(cache.root)
    if not refresh and (known := records.find(source)):
        return Path(known.directory)
    if offline:
        directory = _download(source, files_dir, offline=True, progress=progress, endpoint=endpoint)
        check_model_directory(directory)
        return directory
    with cache.exclusive(
        records.key(source), on_wait=lambda: progress(PullProgress("waiting for another pull of this model"))
    ):
        if not refresh and (known := records.find(source)):
            return Path(known.directory)
        directory = _download(source, files_dir, offline=False, progress=progress, endpoint=endpoint)
        check_model_directory(directory)
        _check_blobs(directory, progress)
        records.write(source, directory)
        return directory


def _download(
    source: HubSource, files_dir: Path | None, *, offline: bool, progress: ProgressCallback, endpoint: str | None
) -> Path:
    with models_extra(f"the source {source}"):
        from huggingface_hub import snapshot_download
    try:
        snapshot = snapshot_download(
            source.repository,
            revision=source.revision,
            cache_dir=files_dir,
            local_files_only=offline,
            allow_patterns=WANTED_FILES,
            ignore_patterns=UNWANTED_FILES,
            tqdm_class=progress_bar_class(progress),
            endpoint=endpoint,
        )
    except Exception as error:  # the library, its HTTP client and its native downloader share no base class
        raise _translated(source, error, offline=offline) from error
    return Path(snapshot)


def _translated(source: HubSource, error: Exception, *, offline: bool) -> ModelError:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"https://huggingface.co/{source.repository}"
    if isinstance(error, GatedRepoError):
        return ModelError(f"{source} is gated: accept its terms at {page}, then set HF_TOKEN to a token of yours")
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFound(f"{source} is not on the hub, or is private: check the name, or set HF_TOKEN")
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFound(f"{source}: the repository has no such revision; see {page}/tree/main")
    if isinstance(error, LocalEntryNotFoundError) and (offline or _hub_is_switched_off()):
        return ModelNotFound(
            f"{source} is not in the cache and may not be downloaded (offline); "
            f"run where there is a network: enginebay models pull {source}"
        )
    return DownloadFailed(f"cannot download {source}: {type(error).__name__}: {error}; pull again to continue")


def _hub_is_switched_off() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _check_blobs(directory: Path, progress: ProgressCallback) -> None:
    """The hub names each large file after its SHA-256, and huggingface_hub keeps that name; it checks sizes only."""
    blobs = [path.resolve() for path in sorted(directory.iterdir()) if path.is_file()]
    large = [blob for blob in blobs if len(blob.name) == SHA256_LENGTH]
    for num_done, blob in enumerate(large):
        progress(PullProgress("checking SHA-256", num_done, len(large), "files"))
        check_sha256(blob, blob.name)
