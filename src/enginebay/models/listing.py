"""What is in the cache, from the catalogue and from the hub."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from enginebay.models.cache import ModelCache, default_cache_root
from enginebay.models.hub_records import HubRecords


@dataclass(frozen=True, slots=True)
class CachedModel:
    source: str
    """What `resolve_model` takes to find it again."""
    directory: Path
    num_bytes: int
    licence: str | None
    """None where the hub's model page has to be asked."""
    pulled_at: datetime


def cached_models(cache_dir: Path | None = None) -> list[CachedModel]:
    root = cache_dir or default_cache_root()
    packaged = [
        CachedModel(
            manifest.source,
            directory,
            sum(file.num_bytes for file in manifest.files.values()),
            manifest.licence,
            manifest.pulled_at,
        )
        for directory, manifest in ModelCache(root).entries()
    ]
    from_hub = [
        CachedModel(record.source, Path(record.directory), sum(record.file_bytes.values()), None, record.pulled_at)
        for record in HubRecords(root).entries()
    ]
    return packaged + from_hub
