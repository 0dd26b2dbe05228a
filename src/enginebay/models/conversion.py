"""Models in the form that one engine reads, made once from a Hugging Face directory and kept in the model cache.

How a model is converted is the plugin's matter; here are the name in the cache, the lock and the folder that is there
whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from enginebay.errors import ModelError
from enginebay.models.cache import HOME_VARIABLE, MANIFEST, ModelCache, default_cache_root, read_manifest
from enginebay.models.progress import ProgressCallback, PullProgress

CONVERSION_RECORD = "enginebay-conversion.json"
_NUM_DIGEST_CHARACTERS = 8
_NO_NAME_CHARACTERS = re.compile(r"[^\w.-]+")


class ConversionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Beside a converted model: what it was made of, and with what."""

    source: str
    target: str
    variant: str
    tools: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    source: Path
    """A Hugging Face directory."""
    target: str
    """Kind of the backend that reads the result."""
    variant: str
    """What else decides what comes out, e.g. the weight format."""
    tools: Mapping[str, str]
    """Versions by distribution; other versions make another model. Empty: whatever was used before will do."""


def converted_model(
    conversion: Conversion,
    convert: Callable[[Path], None],
    *,
    progress: ProgressCallback,
    cache: ModelCache | None = None,
) -> Path:
    """The converted model, made at the first call and only looked up later.

    convert is given an empty folder to fill; where it raises, or is interrupted, nothing of it stays. Blocks; may be
    called by several processes at once. Raises ModelError.
    """
    cache = cache or ModelCache(default_cache_root())
    key = _cache_key(conversion)
    try:
        if (found := cache.find(key)) is not None:
            return found
        with cache.exclusive(key, on_wait=lambda: progress(PullProgress("waiting for the same conversion elsewhere"))):
            # Another process may have finished it while this one waited.
            return cache.find(key) or _make(conversion, convert, key, cache)
    except OSError as error:
        raise ModelError(
            f"cannot write the converted model to the cache {cache.root}: {error}; "
            f"make room there, or set {HOME_VARIABLE} to another folder"
        ) from error


def find_converted(conversion: Conversion, *, cache: ModelCache | None = None) -> Path | None:
    """What `converted_model` made before; with `tools` empty the newest, whatever made it."""
    cache = cache or ModelCache(default_cache_root())
    if conversion.tools:
        return cache.find(_cache_key(conversion))
    prefix = _cache_prefix(conversion)
    made = [(manifest.pulled_at, path) for path, manifest in cache.entries() if path.name.startswith(prefix)]
    return max(made)[1] if made else None


def _make(conversion: Conversion, convert: Callable[[Path], None], key: str, cache: ModelCache) -> Path:
    manifest = read_manifest(conversion.source)
    source = manifest.source if manifest is not None else str(conversion.source)
    record = ConversionRecord(
        source=source, target=conversion.target, variant=conversion.variant, tools=dict(conversion.tools)
    )
    described = f"{source} as {conversion.target} {conversion.variant}"
    licence = manifest.licence if manifest is not None else ""
    with cache.building(key, source=described, licence=licence, downloaded_sha256={}) as directory:
        convert(directory)
        (directory / CONVERSION_RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    made = cache.find(key)
    assert made is not None
    return made


def _cache_key(conversion: Conversion) -> str:
    return _cache_prefix(conversion) + _digest(
        f"{name}={version}" for name, version in sorted(conversion.tools.items())
    )


def _cache_prefix(conversion: Conversion) -> str:
    name = _NO_NAME_CHARACTERS.sub("-", conversion.source.name)
    return f"{name}-{conversion.target}-{conversion.variant}-{_source_digest(conversion.source)}-"


def _source_digest(source: Path) -> str:
    """By content where a manifest tells it, else by names, sizes and times: gigabytes are not hashed at each start."""
    manifest = read_manifest(source)
    if manifest is not None:
        return _digest(f"{name}={file.sha256}" for name, file in sorted(manifest.files.items()))
    files = sorted(path for path in source.iterdir() if path.is_file() and path.name != MANIFEST)
    stats = [(path.name, path.stat()) for path in files]
    return _digest(f"{name}={stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


def _digest(parts: Iterable[str]) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:_NUM_DIGEST_CHARACTERS]
