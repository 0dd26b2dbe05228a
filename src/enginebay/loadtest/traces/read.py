"""The door: a file of any known format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from enginebay.errors import LoadTestError
from enginebay.loadtest.traces import azure, burstgpt
from enginebay.loadtest.traces.mooncake import read_mooncake
from enginebay.loadtest.traces.trace import Trace

TraceFormat = Literal["mooncake", "burstgpt", "azure"]
TRACE_FORMATS: tuple[TraceFormat, ...] = get_args(TraceFormat)


def read_trace(path: Path, format: TraceFormat | None = None, *, block_tokens: int | None = None) -> Trace:
    """format: else told by the first line. Raises LoadTestError for a file that is no trace, or an empty one."""
    found = format or _format_of(path)
    if block_tokens is not None and found != "mooncake":
        raise LoadTestError(f"{path}: block_tokens is for traces of Mooncake, and a trace of {found} has no blocks")
    match found:
        case "mooncake":
            trace = read_mooncake(path, block_tokens=block_tokens)
        case "burstgpt":
            trace = burstgpt.read_burstgpt(path)
        case "azure":
            trace = azure.read_azure(path)
    if not trace.requests:
        raise LoadTestError(f"{path}: has no request that could be replayed")
    return trace


def _format_of(path: Path) -> TraceFormat:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line.strip() for line in file if line.strip()), "")
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LoadTestError(f"{path}: is no text: {error}") from error
    columns = {column.strip() for column in first.split(",")}
    if first.startswith("{"):
        return "mooncake"
    if set(burstgpt.COLUMNS) <= columns:
        return "burstgpt"
    if set(azure.COLUMNS) <= columns:
        return "azure"
    raise LoadTestError(f"{path}: its first line is of no known trace format ({', '.join(TRACE_FORMATS)})")
