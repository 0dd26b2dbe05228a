"""What the README says can be done is done here: its links, its Python, its commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("enginebay ")]
EXPECTED_EXIT = {"compare": 3}
"""One start of each decides nothing, and `compare` says so by its exit code."""
START_LIMIT_S = 60
LIMIT_S = 600
"""A bench takes half a minute on two cores that nobody else uses."""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_yaml_is_a_valid_config(tmp_path: Path) -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (tmp_path / "config.yaml").write_text(block)
    done = run([sys.executable, "-m", "enginebay.cli", "config", "validate", "config.yaml"], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.weights
@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.splitlines()[0])
def test_the_python_examples_run_and_know_the_capital_of_france(block: str, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


@pytest.mark.weights
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[1:3]))
def test_the_commands_do_what_they_say(command: str, workplace: Path) -> None:
    words = [sys.executable, "-m", "enginebay.cli", *shlex.split(command)[1:]]
    if words[3] == "serve":
        assert serves([*words, "--port", "0"], workplace)
        return
    if words[3] == "compare" and not (workplace / "out" / "demo").exists():
        shutil.copytree(workplace / "out" / "two-policies", workplace / "out" / "demo")
    done = run(words, workplace)
    assert done.returncode == EXPECTED_EXIT.get(words[3], 0), done.stderr
    assert done.stdout.strip()


def serves(command: list[str], folder: Path) -> bool:
    """On a free port instead of 8000, until it says that it is ready."""
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    watchdog = threading.Timer(START_LIMIT_S, server.kill)
    watchdog.start()
    try:
        assert server.stdout is not None
        return any(line.startswith("ready: http://") for line in server.stdout)
    finally:
        watchdog.cancel()
        server.terminate()
        server.wait(timeout=30)
        server.stdout.close()
