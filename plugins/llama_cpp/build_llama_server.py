#!/usr/bin/env python3
"""Build llama-server out of the sources that a Python package carries, where no release of llama.cpp can be had.

    python plugins/llama_cpp/build_llama_server.py [.venvs/llama.cpp] [--native]

Needs cmake, a C++ compiler and pip's access to the package index; takes about five minutes on two cores, and nothing
when it was built already. The default runs on every x86-64 processor with AVX2, so that a build may be kept and moved;
--native is for this processor alone. AMX stays off in both: GCC 12's `_tile_loadconfig` tells the compiler of the first
8 of the 64 bytes that it reads, the stores to the rest are optimised away, and the first batch of tokens ends in a
general protection fault at `ldtilecfg`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "llama_cpp_python==0.3.36"
"""Carries llama.cpp at commit 0c1e57098."""
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_CPU_REPACK=OFF",
    "-DGGML_LLAMAFILE=OFF",
)
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
NATIVE = ("-DGGML_NATIVE=ON", f"-DCMAKE_C_FLAGS={NO_AMX}", f"-DCMAKE_CXX_FLAGS={NO_AMX}")
PORTABLE = ("-DGGML_NATIVE=OFF",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("into", type=Path, nargs="?", default=Path(".venvs/llama.cpp"))
    parser.add_argument("--native", action="store_true")
    arguments = parser.parse_args()
    server = arguments.into.absolute() / "bin" / "llama-server"
    recipe = "\n".join((PACKAGE, *OPTIONS, *(NATIVE if arguments.native else PORTABLE)))
    if is_built(server, recipe):
        print(f"{server} is there already")
        return
    build(server, recipe, native=arguments.native)
    print(f"built {server}")


def is_built(server: Path, recipe: str) -> bool:
    """By the same recipe, and able to run here."""
    record = server.parent / "recipe.txt"
    if not (record.exists() and record.read_text() == recipe):
        return False
    return subprocess.run([server, "--version"], capture_output=True, check=False).returncode == 0


def build(server: Path, recipe: str, *, native: bool) -> None:
    for program in ("cmake", "c++"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed: apt-get install cmake g++ ninja-build")
    with tempfile.TemporaryDirectory(prefix="llama.cpp-") as folder:
        built = compiled(sources(Path(folder)), Path(folder) / "build", native=native)
        server.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built, server)
    (server.parent / "recipe.txt").write_text(recipe)


def sources(folder: Path) -> Path:
    """Download the source distribution and return the llama.cpp tree inside it."""
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama_cpp_python")
    run(*pip, "--dest", folder, PACKAGE)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    [tree] = folder.glob("*/vendor/llama.cpp")
    return tree


def compiled(tree: Path, folder: Path, *, native: bool) -> Path:
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    run("cmake", "-S", tree, "-B", folder, *generator, *OPTIONS, *(NATIVE if native else PORTABLE))
    run("cmake", "--build", folder, "--target", "llama-server", "--parallel", str(os.cpu_count() or 1))
    return folder / "bin" / "llama-server"


def run(*command: str | Path) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
