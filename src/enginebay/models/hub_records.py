"""What was pulled from the hub: one small file for each repository and revision, beside the embedded models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec

MAIN = "main"


@dataclass(frozen=True, slots=True)
class HubSource:
    repository: str
    """`owner/name`."""
    revision: str | None
    """Branch, tag or commit; None is the main branch."""

    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision else "")


class HubRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A complete, checked snapshot."""

    source: str
    """What `resolve_model` takes to find it again."""
    commit: str
    directory: str
    pulled_at: datetime
    file_bytes: dict[str, int]

    @classmethod
    def of(cls, source: HubSource, directory: Path) -> HubRecord:
        return cls(
            source=str(source),
            commit=directory.name,
            directory=str(directory),
            pulled_at=datetime.now(UTC),
            file_bytes={path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()},
        )

    @property
    def is_whole(self) -> bool:
        """False when somebody emptied the hub's cache."""
        try:
            return all((Path(self.directory) / name).stat().st_size == size for name, size in self.file_bytes.items())
        except OSError:
            return False


class HubRecords:
    def __init__(self, root: Path) -> None:
        self._folder = root / "hub"

    def key(self, source: HubSource) -> str:
        return quote(f"{source.repository}@{source.revision or MAIN}", safe="@")

    def find(self, source: HubSource) -> HubRecord | None:
        return self._read(self._folder / f"{self.key(source)}.json")

    def entries(self) -> Iterator[HubRecord]:
        for path in sorted(self._folder.glob("*.json")):
            if record := self._read(path):
                yield record

    def write(self, source: HubSource, directory: Path) -> None:
        """Only under the lock of the model."""
        record = HubRecord.of(source, directory)
        path = self._folder / f"{self.key(source)}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        os.replace(unfinished, path)

    @staticmethod
    def _read(path: Path) -> HubRecord | None:
        try:
            record = msgspec.json.decode(path.read_bytes(), type=HubRecord)
        except (OSError, msgspec.DecodeError):
            return None
        return record if record.is_whole else None
