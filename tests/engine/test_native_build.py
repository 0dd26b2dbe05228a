"""Native kernels that cannot be had: other layers, with the reason, or an error where they were asked for by name.

Each in a process of its own: a library is loaded once for good.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginebay.engine.kernels.native.build import _library, native_kernels

pytestmark = pytest.mark.skipif(native_kernels().operators is None, reason=native_kernels().why_not or "they are here")

FAILING = """#!/bin/sh
case "$*" in
  *kernels.cpp*) echo "kernels.cpp:1: error: no such instruction" >&2; exit 1;;
  *) exec c++ "$@";;
esac
"""
CHOOSE = """
import logging, sys, torch
from types import SimpleNamespace
from enginebay.engine.kernels import choose_layers
from enginebay.errors import ModelError
logging.basicConfig(level="WARNING", stream=sys.stdout, format="warning: %(message)s")
model = SimpleNamespace(head_dim=64, num_heads=9, num_kv_heads=3)
told = dict(model=model, dtype=torch.bfloat16, device=torch.device("cpu"))
print("chosen:", choose_layers("auto", None, **told).name)
try:
    choose_layers("native", None, **told)
except ModelError as error:
    print("refused:", error)
"""
OVERTAKEN = """#!/bin/sh
c++ "$@" || exit 1
case "$*" in
  *-shared*)
    mkdir -p "$WINNER"
    for last; do :; done
    cp "$last" "$WINNER/"
esac
"""


def compiler(folder: Path, text: str) -> str:
    path = folder / "bin" / "c++"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def chosen(home: Path, **environment: str) -> str:
    told = {**os.environ, "ENGINEBAY_HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", CHOOSE], env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_compiler_that_fails_leads_to_the_packed_layers(tmp_path: Path) -> None:
    said = chosen(tmp_path / "home", CXX=compiler(tmp_path, FAILING))
    assert "warning: the native kernels are not used: they cannot be compiled" in said
    assert "no such instruction" in said
    assert "chosen: packed" in said
    assert "refused: kernels native: they cannot be compiled" in said
    assert not list((tmp_path / "home" / "kernels").iterdir()), "what the compiler left behind stays"


def test_a_library_that_is_broken_leads_to_the_packed_layers_and_is_named(tmp_path: Path) -> None:
    library = tmp_path / "kernels" / _library().parent.name / _library().name
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    said = chosen(tmp_path)
    assert "chosen: packed" in said
    assert f"{library} cannot be loaded" in said
    assert "delete it" in said
    assert "refused: kernels native" in said


def test_without_a_compiler_the_engine_says_what_is_missing(tmp_path: Path) -> None:
    said = chosen(tmp_path / "home", PATH=str(tmp_path), CXX="")
    assert "a C++ compiler must be installed (c++ or g++), or named by CXX" in said
    assert "chosen: packed" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_two_engines_that_compile_at_once_both_have_the_kernels(tmp_path: Path) -> None:
    """The other one is done first: its library is there when this one has compiled its own."""
    winner = tmp_path / "home" / "kernels" / _library().parent.name
    said = chosen(tmp_path / "home", CXX=compiler(tmp_path, OVERTAKEN), WINNER=str(winner))
    assert "chosen: native" in said
    assert [path.name for path in winner.parent.iterdir()] == [winner.name]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiling_a_new_version_removes_those_that_nobody_used_for_long(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "kernels"
    for name, used_at in (("long-ago", 0), ("lately", time.time())):
        (folder / name).mkdir(parents=True)
        (folder / name / _library().name).write_bytes(b"kernels")
        for path in (folder / name / _library().name, folder / name):
            os.utime(path, (used_at, used_at))
    assert "chosen: native" in chosen(tmp_path / "home")
    assert {path.name for path in folder.iterdir()} == {_library().parent.name, "lately"}


def test_the_home_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ENGINEBAY_HOME", "~/kept")
    assert _library().is_relative_to(tmp_path / "kept" / "kernels")
