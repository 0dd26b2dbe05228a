"""huggingface_hub reports through tqdm bars; this is a bar that draws nothing and tells our callback instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginebay.models.extras import models_extra
from enginebay.models.progress import ProgressCallback, PullProgress

if TYPE_CHECKING:
    from tqdm.auto import tqdm


def progress_bar_class(progress: ProgressCallback) -> type[tqdm]:
    """Recent versions drive one or two bars of bytes and one of files, older ones the bar of files alone."""
    with models_extra("a download from the hub"):
        from tqdm.auto import tqdm

    class ReportingBar(tqdm):
        def __init__(self, *args: object, **settings: object) -> None:
            self.counts_bytes = settings.get("unit") == "B"
            super().__init__(*args, **{**settings, "disable": True})  # pyright: ignore[reportArgumentType, reportCallIssue]

        def update(self, n: float | None = 1) -> None:
            with self.get_lock():  # files are downloaded by several threads
                self.n += n or 0
            total = int(self.total) if self.total else None
            step = "downloading" if self.counts_bytes else "downloading files"
            progress(PullProgress(step, int(self.n), total, "bytes" if self.counts_bytes else "files"))

    return ReportingBar
