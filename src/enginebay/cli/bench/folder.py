"""Which folder a journey may measure into: asked before a server is, and before any file of the folder is touched."""

from __future__ import annotations

from pathlib import Path

from enginebay.cli.bench.flags import ResultFlags
from enginebay.loadtest.result_folder import demand_free, holds_other


def demand_usable(folder: Path, file: str, flags: ResultFlags) -> None:
    """file: the result that will be written. Raises ResultExists where it would replace one that nobody gave up."""
    if not (flags.resume or flags.overwrite):
        demand_free(folder, file)


def stays(folder: Path, file: str, flags: ResultFlags) -> bool:
    """Whether a result in the folder stays, so that the config it was measured with must stay as it is."""
    return flags.resume or holds_other(folder, file)
