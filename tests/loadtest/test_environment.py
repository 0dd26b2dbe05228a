"""What a result says of the machine, also where its tools are in trouble."""

import os
from pathlib import Path

import pytest

from enginebay.loadtest import environment


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        ("echo NVIDIA H100; echo NVIDIA H100", ("NVIDIA H100", "NVIDIA H100")),
        ("echo failed; exit 9", ()),
        ("exec sleep 60", ()),
    ],
)
def test_gpus_are_those_that_the_driver_tells_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, gpus: tuple[str, ...]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(environment, "NVIDIA_SMI_TIMEOUT_S", 1.0)
    assert environment.describe_environment().gpus == gpus


def test_the_memory_in_use_is_told_in_bytes_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 71680; echo 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert environment.gpu_memory_used_bytes() == (71680 * 2**20, 3 * 2**20)
    program.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert environment.gpu_memory_used_bytes() == ()
