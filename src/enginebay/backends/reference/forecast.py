"""What the engine would run with here: its kernels, and the sum of its memory. Nothing is loaded or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from enginebay.backend import BackendContext
from enginebay.backends.reference.draft_vocabulary import check_draft_vocabulary
from enginebay.backends.reference.launch_plan import engine_config
from enginebay.engine.setup import forecast
from enginebay.errors import ConfigError, ModelError
from enginebay.models.sources import resolve_model


def forecast_lines(context: BackendContext) -> Iterator[str]:
    try:
        model_dir, draft_dir = _directories(context)
    except ModelError as error:
        yield f"kernels and memory: not known before the model is here: {error}"
        return
    try:
        if draft_dir is not None:
            check_draft_vocabulary(model_dir, draft_dir)
        found = forecast(engine_config(context.settings, context.options, model_dir, draft_dir=draft_dir))
    except (ConfigError, ModelError) as error:
        yield f"it would not start here: {error}"
        return
    yield f"kernels: {found.kernels.kernels} ({found.kernels.why})"
    yield f"memory: {found.memory}, of {found.available_bytes:,} available here; second layouts come on top"


def _directories(context: BackendContext) -> tuple[Path, Path | None]:
    """Of the model, and of a draft model. Raises ModelError for one that is not on this machine."""
    settings = context.settings
    revision, draft = settings.get("revision"), settings.get("speculative_draft_model")
    model_dir = resolve_model(context.model, revision=None if revision is None else str(revision), offline=True)
    return model_dir, None if draft is None else _directory(str(draft))


def _directory(source: str) -> Path:
    return Path(source) if Path(source).is_dir() else resolve_model(source, offline=True)
