"""The folder where pulled models live. A model is there whole or not at all, however a pull ends.

<root>/models/<key>/       a finished model: files of the model and `enginebay-manifest.json`; never changed again
<root>/models/.building-*  a model being made; renamed when it is done, removed by the next pull when it was killed
<root>/partial/<key>/      downloads; kept when a pull is interrupted, removed when it succeeds
<root>/locks/<key>.lock    held by the one process that pulls; the system frees it when that process dies
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from enginebay.errors import ModelError
from enginebay.models.checksums import sha256_of

HOME_VARIABLE = "ENGINEBAY_HOME"
MANIFEST = "enginebay-manifest.json"


class ManifestFile(msgspec.Struct, frozen=True):
    num_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cached model came from, and what it consists of."""

    source: str
    """What `resolve_model` takes to find it again."""
    licence: str
    downloaded_sha256: dict[str, str]
    """By file name: what was downloaded and checked before the conversion."""
    pulled_at: datetime
    files: dict[str, ManifestFile]


class ModelCache:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._models = root / "models"

    def directory(self, key: str) -> Path:
        """Where the model is once it is finished."""
        return self._models / key

    def find(self, key: str, *, check_content: bool = False) -> Path | None:
        """The finished model, or None. Looks at sizes, which costs nothing at every start, or at each SHA-256."""
        directory = self.directory(key)
        manifest = read_manifest(directory)
        if manifest is None or not _is_whole(directory, manifest):
            return None
        if check_content and not _is_unchanged(directory, manifest):
            return None
        return directory

    def entries(self) -> Iterator[tuple[Path, Manifest]]:
        """Every finished model, by name."""
        for directory in sorted(self._models.glob("[!.]*")):
            manifest = read_manifest(directory)
            if manifest is not None and _is_whole(directory, manifest):
                yield directory, manifest

    def partial(self, key: str) -> Path:
        """A folder for downloads that outlives an interrupted pull. Only under `exclusive`."""
        return _made(self.root / "partial" / key)

    @contextmanager
    def exclusive(self, key: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of one model; `on_wait` is called once if another pull has it."""
        with (_made(self.root / "locks") / f"{key}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def building(self, key: str, *, source: str, licence: str, downloaded_sha256: Mapping[str, str]) -> Iterator[Path]:
        """Give an empty folder to fill; on a clean exit it becomes the finished model. Only under `exclusive`."""
        prefix = f".building-{key}-"
        for abandoned in _made(self._models).glob(f"{prefix}*"):
            shutil.rmtree(abandoned)
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=self._models))
        try:
            yield directory
            directory.chmod(0o755)  # mkdtemp makes it private
            manifest = Manifest(
                source=source,
                licence=licence,
                downloaded_sha256=dict(downloaded_sha256),
                pulled_at=datetime.now(UTC),
                files=_described(directory),
            )
            (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
            self._replace(key, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(self.root / "partial" / key, ignore_errors=True)

    def _replace(self, key: str, directory: Path) -> None:
        target = self._models / key
        if target.exists():  # damaged, or `find` would have returned it
            shutil.rmtree(target)
        directory.rename(target)


def default_cache_root() -> Path:
    """Raises ModelError where it lies in a home directory and there is none, as for the unknown user of a container."""
    own = os.environ.get(HOME_VARIABLE)
    try:
        return Path(own).expanduser() if own else Path.home() / ".cache" / "enginebay"
    except RuntimeError as error:
        if own:
            raise ModelError(f"{HOME_VARIABLE} is {own}, but there is no such home; set it to a folder") from error
        raise ModelError(f"there is no home directory to keep models in; set {HOME_VARIABLE} to a folder") from error


def read_manifest(directory: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def _is_whole(directory: Path, manifest: Manifest) -> bool:
    def size(name: str) -> int | None:
        try:
            return (directory / name).stat().st_size
        except OSError:
            return None

    return all(size(name) == file.num_bytes for name, file in manifest.files.items())


def _is_unchanged(directory: Path, manifest: Manifest) -> bool:
    return all(sha256_of(directory / name) == file.sha256 for name, file in manifest.files.items())


def _described(directory: Path) -> dict[str, ManifestFile]:
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return {path.name: ManifestFile(path.stat().st_size, sha256_of(path)) for path in files}


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot write to the model cache: {error}; set {HOME_VARIABLE} to a folder that you may write to"
        ) from error
    return directory
