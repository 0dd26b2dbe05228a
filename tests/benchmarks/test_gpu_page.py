"""Pages about GPUs carry a banner until a result from a GPU is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_page import BANNER, BEGIN, PAGES, RESULTS, gpu_block, with_block  # noqa: E402


def result(*, gpus: list[str], simulated: bool = False) -> dict[str, object]:
    run = {
        "backend": "vllm", "engine_version": "0.32.0", "simulated": simulated, "valid": True, "load": {"users": 8},
        "metrics": {"output_tokens_per_s": 1234.5, "ttft_s": {"p50": 0.0421}},
    }  # fmt: skip
    return {"model": "hf:Qwen/Qwen3-8B", "environment": {"gpus": gpus}, "runs": [run]}


def saved(folder: Path, content: dict[str, object]) -> Path:
    (folder / "qwen").mkdir()
    (folder / "qwen" / "result.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_about_gpus_says_what_the_result_files_say(page: Path) -> None:
    text = page.read_text()
    assert BEGIN in text
    assert with_block(text, gpu_block(RESULTS)) == text


def test_without_a_result_from_a_gpu_there_is_the_banner(tmp_path: Path) -> None:
    assert gpu_block(tmp_path) == BANNER


def test_a_result_from_a_gpu_replaces_the_banner_by_its_figures(tmp_path: Path) -> None:
    block = gpu_block(saved(tmp_path, result(gpus=["NVIDIA H100 80GB HBM3"])))
    assert BANNER not in block
    row = "| 1 x NVIDIA H100 80GB HBM3 | hf:Qwen/Qwen3-8B | vllm 0.32.0 | 8 users | 1234 | 0.042 s | yes |"
    assert row in block.splitlines()


@pytest.mark.parametrize("content", [result(gpus=[]), result(gpus=["NVIDIA H100"], simulated=True)])
def test_neither_a_cpu_nor_a_simulation_lifts_the_banner(tmp_path: Path, content: dict[str, object]) -> None:
    assert gpu_block(saved(tmp_path, content)) == BANNER


def test_the_check_finds_a_page_that_was_edited_by_hand() -> None:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu_page.py", "--check"], check=False)
    assert done.returncode == 0
