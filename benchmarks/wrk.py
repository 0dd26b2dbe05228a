"""Loads by wrk, and what it reports."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from gateway_stage import OTHER_CPUS, Target, pinned

TIMEOUT_S = 60
"""Of one answer: long, so that what is slow is told as slow and not as an error."""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def run_wrk(target: Target, fields: dict[str, Any], *, num_connections: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_lua(target, json.dumps(fields, separators=(",", ":"))))
        command = pinned(
            OTHER_CPUS, "wrk", "--threads=1", f"--connections={num_connections}", f"--duration={seconds:g}s",
            f"--timeout={TIMEOUT_S}s", "--latency", f"--script={script}", f"{target.url}/v1/completions",
        )  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return read_wrk(done.stdout)


def _lua(target: Target, body: str) -> str:
    authorization = "" if target.key is None else f'wrk.headers["authorization"] = "Bearer {target.key}"\n'
    return (
        f"wrk.method = 'POST'\nwrk.body = [[{body}]]\nwrk.headers['content-type'] = 'application/json'\n{authorization}"
    )


def read_wrk(text: str) -> dict[str, float]:
    """Figures of wrk's report. An answer that is no 200 counts as an error, as a broken connection does."""
    figures = {"requests_per_s": float(_found(r"Requests/sec:\s+([\d.]+)", text))}
    for percentile in (50, 99):
        amount, unit = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m) *$", text, re.M).groups()  # pyright: ignore
        figures[f"latency_p{percentile}_s"] = float(amount) * _UNITS[unit]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    figures["num_errors"] = int(refused[1]) if refused else 0
    figures["num_errors"] += sum(map(int, broken.groups())) if broken else 0
    return figures


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]
