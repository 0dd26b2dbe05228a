"""Plays `docker run` and `docker rm -f`: a container is a process in a session of its own, its name a file.

    #!python fake_docker.py DIRECTORY          (made by `make_docker`)

As the real client does, it hands SIGTERM on to the container, and being killed leaves the container running.
What it was asked is appended to DIRECTORY/calls.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(directory: Path, words: list[str]) -> int:
    with (directory / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    return run(directory, words) if words[0] == "run" else remove(directory, words[-1])


def run(directory: Path, words: list[str]) -> int:
    name = words[words.index("--name") + 1]
    command = words[words.index("image:1") + 1 :]
    started: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, lambda *_: [container.terminate() for container in started])
    container = subprocess.Popen(command, start_new_session=True, env=without_tag())
    started.append(container)
    (directory / name).write_text(str(container.pid))
    code = container.wait()
    (directory / name).unlink(missing_ok=True)
    return 128 - code if code < 0 else code


def without_tag() -> dict[str, str]:
    """A container is the daemon's child, and has another environment than the client."""
    return {name: value for name, value in os.environ.items() if name != "ENGINEBAY_LAUNCH"}


def remove(directory: Path, name: str) -> int:
    try:
        os.killpg(int((directory / name).read_text()), signal.SIGKILL)
        (directory / name).unlink()
    except (FileNotFoundError, ProcessLookupError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
