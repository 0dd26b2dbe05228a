"""How much memory is taken to be available."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from enginebay.engine import memory

CPU = torch.device("cpu")


def test_a_container_is_held_to_the_limit_of_its_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("2000\n", encoding="ascii")
    assert memory.available_memory_bytes(CPU) == 3000
    (tmp_path / "memory.stat").write_text("anon 900\ninactive_file 700\n", encoding="ascii")
    assert memory.available_memory_bytes(CPU) == 3700


def test_without_a_limit_it_is_what_the_machine_has_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert 0 < memory.available_memory_bytes(CPU) <= psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("2000\n", encoding="ascii")
    assert memory.available_memory_bytes(CPU) > 3000
