"""`enginebay plan` of the reference engine: kernels and memory, from the headers of the files alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_llama import write_random_llama

from enginebay.cli.main import run


def written(tmp_path: Path, *, model: str, more: str = "") -> str:
    path = tmp_path / "enginebay.yaml"
    path.write_text(
        f"version: 1\nmodel: {model}\nengine: {{dtype: float32, max_model_len: 64}}\n"
        f"backends: {{reference: {{options: {{num_blocks: 8{more}}}}}}}\n"
    )
    return str(path)


def plan(config: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run(["plan", config, "--backend", "reference"]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_plan_shows_the_kernels_and_the_arithmetic_of_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_random_llama(tmp_path / "model")
    lines = plan(written(tmp_path, model=str(model)), capsys)
    [kernels] = [line for line in lines if line.startswith("kernels: ")]
    assert kernels.startswith("kernels: plain (not native: they compute in bfloat16 on the CPU; not packed: ")
    [memory] = [line for line in lines if line.startswith("memory: ")]
    num_weight_bytes = 4 * (2 * 96 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32))
    num_block_bytes = 2 * 2 * 16 * 16 * 4
    assert f"weights {num_weight_bytes:,} bytes" in memory
    assert f"8 blocks of 16 tokens and one of scratch x {num_block_bytes:,} bytes = {9 * num_block_bytes:,}" in memory
    assert "available here" in memory


def test_a_plan_for_a_machine_that_is_too_small_says_so_and_is_a_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_random_llama(tmp_path / "model")
    lines = plan(written(tmp_path, model=str(model), more=", block_size: 1"), capsys)
    assert any(line.startswith("it would not start here: the KV cache cannot hold one context") for line in lines)


def test_kernels_that_this_engine_cannot_have_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_random_llama(tmp_path / "model")
    lines = plan(written(tmp_path, model=str(model), more=", kernels: native"), capsys)
    assert "it would not start here: kernels native: they compute in bfloat16 on the CPU; use auto" in lines


def test_a_dtype_that_is_not_told_by_the_model_is_no_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_random_llama(tmp_path / "model")
    config = Path(written(tmp_path, model=str(model)))
    config.write_text(config.read_text().replace("dtype: float32", "dtype: auto"))
    (model / "config.json").write_text("{")
    lines = plan(str(config), capsys)
    assert any(line.startswith(("it would not start here: ", "kernels and memory: not known")) for line in lines)


def test_a_model_that_is_not_here_is_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path / "home"))
    lines = plan(written(tmp_path, model="smollm2-135m"), capsys)
    [line] = [line for line in lines if line.startswith("kernels and memory: ")]
    assert "not known before the model is here" in line
    assert not (tmp_path / "home" / "models").exists()


def test_without_torch_the_plan_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "enginebay.backends.reference.forecast", None)
    lines = plan(written(tmp_path, model=str(tmp_path)), capsys)
    assert any(line.startswith("kernels and memory: not known without ") for line in lines)


def test_a_draft_model_that_numbers_its_tokens_otherwise_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, draft = (write_random_llama(tmp_path / name) for name in ("model", "draft"))
    for directory, vocabulary in ((model, '{"a": 0, "b": 1}'), (draft, '{"a": 1, "b": 0}')):
        (directory / "tokenizer.json").write_text(f'{{"model": {{"vocab": {vocabulary}}}}}')
    config = Path(written(tmp_path, model=str(model)))
    drafting = f"speculative_draft_model: {draft}, max_model_len: 64"
    config.write_text(config.read_text().replace("max_model_len: 64", drafting))
    lines = plan(str(config), capsys)
    [line] = [line for line in lines if line.startswith("it would not start here: ")]
    assert "its tokenizer.json gives other ids to tokens" in line
