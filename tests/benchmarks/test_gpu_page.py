"""Pages about GPUs carry a banner until a result from a GPU is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_page import BANNER, BEGIN, PAGES, RESULTS, gpu_block, with_block  # noqa: E402


def result(*, gpus: tuple[str, ...] = ("NVIDIA H100",) * 8, **changed: object) -> dict[str, object]:
    run = {
        "backend": "vllm", "engine_version": "0.32.0", "simulated": False, "valid": True, "status": "complete",
        "load": {"users": 8}, "metrics": {"output_tokens_per_s": 1234.5, "ttft_s": {"p50": 0.0421}},
        "configured_settings": {"tensor_parallel_size": 2}, "effective_settings": {"tensor_parallel_size": "unknown"},
        "gpu_memory_used_bytes": [70 * 10**9, 70 * 10**9, *[10**6] * 6], **changed,
    }  # fmt: skip
    return {"model": "hf:Qwen/Qwen3-8B", "environment": {"gpus": list(gpus)}, "runs": [run]}


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
    block = gpu_block(saved(tmp_path, result()))
    assert BANNER not in block
    row = "| 2 x NVIDIA H100 | hf:Qwen/Qwen3-8B | vllm 0.32.0 | 8 users | 1234 | 0.042 s |"
    assert row in block.splitlines()


@pytest.mark.parametrize(
    "content",
    [
        result(gpus=()),
        result(simulated=True),
        result(valid=False),
        result(status="partial"),
        result(backend="reference"),
        result(backend="openai_http"),
        result(gpu_memory_used_bytes=[]),
        result(gpu_memory_used_bytes=[10**6] * 8),
        result(effective_settings={"tensor_parallel_size": 4}),
    ],
    ids=["cpu", "simulated", "invalid", "partial", "engine-of-cpu", "elsewhere", "not-told", "idle", "too-few"],
)
def test_what_no_gpu_computed_does_not_lift_the_banner(tmp_path: Path, content: dict[str, object]) -> None:
    assert gpu_block(saved(tmp_path, content)) == BANNER


def test_the_check_finds_a_page_that_was_edited_by_hand() -> None:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu_page.py", "--check"], check=False)
    assert done.returncode == 0
