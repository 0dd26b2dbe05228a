"""What `enginebay doctor` says of kernels: on a machine that has everything, and on those that lack something."""

from __future__ import annotations

from pathlib import Path

import pytest

import enginebay.engine.kernels
from enginebay.cli.doctor_kernels import kernel_findings
from enginebay.cli.finding import Finding
from enginebay.cli.main import run
from enginebay.engine.kernels import machine
from enginebay.engine.kernels.packed import packing_is_available

AMX = " ".join((*machine.NEEDED_FEATURES, "avx2", "avx512_vnni"))


@pytest.fixture
def on_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def pretend(*, flags: str = AMX, compiler: str = "g++-99 -pipe", is_compiled: bool = False) -> list[Finding]:
        told = {"flags": flags, "model name": "Some CPU"}
        monkeypatch.setattr(machine, "_cpu_info", told.__getitem__)
        monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
        monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(enginebay.engine.kernels, "is_compiled", lambda: is_compiled)
        (tmp_path / "g++-99").touch(mode=0o755)
        monkeypatch.setenv("CXX", compiler)
        monkeypatch.setenv("PATH", str(tmp_path))
        return list(kernel_findings())

    return pretend


def found(findings: list[Finding], beginning: str) -> Finding:
    [finding] = [finding for finding in findings if finding.what.startswith(beginning)]
    return finding


def of_bfloat16(findings: list[Finding]) -> str:
    return next(finding.what for finding in findings if "bfloat16" in finding.what.split(":")[0])


def test_a_machine_with_everything(on_a_machine):
    findings = on_a_machine()
    assert {finding.level for finding in findings} == {"good"}
    assert found(findings, "CPU").what == (
        "CPU: Some CPU, with AMX bfloat16, AMX int8, AVX-512, AVX-512 bfloat16, AVX-512 VNNI, AVX2"
    )
    assert found(findings, "C++").what == "C++ compiler: g++-99 -pipe"
    assert "bfloat16 with int8: native kernels" in of_bfloat16(findings)
    assert "compiled at the first start" in of_bfloat16(findings)
    assert "compiled" not in of_bfloat16(on_a_machine(is_compiled=True))


def test_a_cpu_without_amx_is_told_what_it_lacks_and_which_kernels_it_gets(on_a_machine):
    findings = on_a_machine(flags="avx2 avx512f avx512bw avx512vl avx512_vnni")
    cpu = found(findings, "CPU")
    assert (cpu.level, cpu.advice) == ("note", "without AMX bfloat16, AMX int8, AVX-512 bfloat16")
    assert not any(finding.what.startswith(("C++", "no C++")) for finding in findings), "nothing would be compiled here"
    kernels = "packed" if packing_is_available_here() else "plain"
    assert f"{kernels} kernels (not native: this CPU lacks amx_bf16, amx_int8, amx_tile" in of_bfloat16(findings)


def packing_is_available_here() -> bool:
    import torch

    return packing_is_available(torch.device("cpu"), torch.bfloat16)


def test_a_machine_without_a_compiler_is_told_what_to_install(on_a_machine):
    findings = on_a_machine(compiler="")
    compiler = found(findings, "no C++ compiler")
    assert compiler.level == "note"
    assert "install c++ or g++, or name one by CXX" in compiler.advice
    assert "not native: they need a C++ compiler, and there is none" in of_bfloat16(findings)


def test_a_compiler_that_is_named_and_not_there_is_told(on_a_machine):
    findings = on_a_machine(compiler="g++-98 -pipe")
    compiler = found(findings, "no C++ compiler")
    assert (compiler.level, compiler.what) == ("note", "no C++ compiler 'g++-98', which CXX names;")
    assert "not native: they need a C++ compiler, and CXX names 'g++-98'" in of_bfloat16(findings)


def test_kernels_that_are_compiled_already_need_no_compiler(on_a_machine):
    assert "native kernels" in of_bfloat16(on_a_machine(compiler="", is_compiled=True))


def test_the_command_prints_it(on_a_machine, capsys: pytest.CaptureFixture[str]):
    on_a_machine()
    run(["doctor"])
    out = capsys.readouterr().out
    assert "CPU: Some CPU, with AMX bfloat16" in out
    assert "C++ compiler: g++-99 -pipe" in out
    assert "int8_weight_only: plain kernels (not native: they have no int8_weight_only" in out
