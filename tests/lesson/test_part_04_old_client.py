"""Part 4: the client of the lesson's day, `openai.Completion.create` of version 0.28, in an environment of its own."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.weights, pytest.mark.install, pytest.mark.timeout(400)]

SCRIPT = """
import sys, openai
openai.api_key, openai.api_base = "EMPTY", sys.argv[1] + "/v1"
completion = openai.Completion.create(
    model="smollm2-135m", prompt="The capital of France is", max_tokens=8, temperature=0
)
print(openai.__version__, completion.choices[0].text)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openai-0.28")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "openai==0.28.1"], check=True, timeout=300)
    return python


def test_the_old_client_gets_a_completion(old_python: Path, server_url: str) -> None:
    done = subprocess.run([old_python, "-c", SCRIPT, server_url], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.28.1")
    assert "Paris" in done.stdout
