"""Native kernels that cannot be had: other layers, with the reason, or an error where they were asked for by name.

Each in a process of its own: a library is loaded once for good.
"""

from __future__ import annotations

import os
import subprocess
import sys
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
told = dict(model=SimpleNamespace(head_dim=64), dtype=torch.bfloat16, device=torch.device("cpu"))
print("chosen:", choose_layers("auto", None, **told).name)
try:
    choose_layers("native", None, **told)
except ModelError as error:
    print("refused:", error)
"""


def chosen(home: Path, **environment: str) -> str:
    told = {**os.environ, "ENGINEBAY_HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", CHOOSE], env=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_compiler_that_fails_leads_to_the_packed_layers(tmp_path: Path) -> None:
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    compiler.write_text(FAILING)
    compiler.chmod(0o755)
    said = chosen(tmp_path / "home", CXX=str(compiler))
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
