"""The likely cause of a failed start, read from how the process ended and what it wrote last."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

# Looked for in this order: the first that is found is named.
_CAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"out of memory|can't allocate memory|Cannot allocate memory|std::bad_alloc|^MemoryError", re.I),
        "memory ran out: lower max_model_len, max_num_seqs or the size of the KV cache, or use a smaller dtype",
    ),
    (
        re.compile(r"KV cache (?:does not fit|cannot hold)"),
        "the KV cache does not fit: change the settings that the last line names",
    ),
    (
        re.compile(r"No module named '?([\w.]+)"),
        "the Python module {0} is not installed for {python}",
    ),
    (
        re.compile(r"ModelNotFound|No such file or directory: '?([^']*(?:safetensors|config\.json|tokenizer)[^']*)'?"),
        "weights or configuration of the model are missing: check the model's directory, or pull it again",
    ),
    (
        re.compile(r"ConfigError|UnsupportedModel|ModelError|unrecognized arguments|invalid choice|ValidationError"),
        "a setting or the model is not supported: see the last line",
    ),
    (re.compile(r"Address already in use"), "the port is in use by another process"),
)


def likely_cause(*, returncode: int | None, log_tail: Sequence[str], python: str) -> str | None:
    """None where nothing known is found. returncode is None while the process runs, -9 for a SIGKILL."""
    for pattern, cause in _CAUSES:
        for line in reversed(log_tail):
            if match := pattern.search(line):
                return cause.format(*match.groups(default=""), python=python)
    if returncode == -signal.SIGKILL:
        return "the system killed it, most likely because memory ran out"
    if returncode is not None and returncode < 0:
        return f"it crashed with {signal_name(-returncode)}"
    return None


def explained(*, returncode: int | None, log: Sequence[str], num_lines: int = 20) -> tuple[str | None, list[str]]:
    """The likely cause, and the last lines to show."""
    return likely_cause(returncode=returncode, log_tail=log, python="the engine's Python"), [*log][-num_lines:]


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
