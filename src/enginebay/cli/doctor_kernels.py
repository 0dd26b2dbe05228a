"""What the reference engine's kernels find on this machine, and which ones it would choose. Imports torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import torch

from enginebay.cli.finding import Finding
from enginebay.engine.kernels import expected_kernels
from enginebay.engine.kernels.choice import Choice
from enginebay.engine.kernels.machine import (
    COMPILER_VARIABLE,
    COMPILERS,
    cpu_features,
    cpu_name,
    find_compiler,
    what_this_machine_lacks,
    why_no_compiler,
)

FEATURES = {
    "AMX bfloat16": "amx_bf16",
    "AMX int8": "amx_int8",
    "AVX-512": "avx512f",
    "AVX-512 bfloat16": "avx512_bf16",
    "AVX-512 VNNI": "avx512_vnni",
    "AVX2": "avx2",
}
"""That engines for the CPU are made for."""
PRECISIONS = {"float32": None, "bfloat16": None, "bfloat16 with int8": "int8", "int8_weight_only": "int8_weight_only"}
"""By how it is called here: the quantization."""


def kernel_findings() -> Iterator[Finding]:
    yield _cpu()
    if what_this_machine_lacks() is None:
        yield _compiler()
    by_choice: dict[Choice, list[str]] = {}
    for precision, quantization in PRECISIONS.items():
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        chosen = expected_kernels("auto", quantization, model=None, dtype=dtype, device=torch.device("cpu"))
        by_choice.setdefault(chosen, []).append(precision)
    for chosen, precisions in by_choice.items():
        what = f"reference engine on the CPU, {', '.join(precisions)}: {chosen.kernels} kernels ({chosen.why})"
        yield Finding("good", what)


def _cpu() -> Finding:
    features = cpu_features()
    there = [name for name, feature in FEATURES.items() if feature in features]
    missing = [name for name, feature in FEATURES.items() if feature not in features]
    what = f"CPU: {cpu_name()}{', with ' if there else ''}{', '.join(there)}"
    if not missing or not features:
        return Finding("good", what)
    return Finding("note", f"{what};", f"without {', '.join(missing)}")


def _compiler() -> Finding:
    command = find_compiler()
    if command is not None and why_no_compiler() is None:
        return Finding("good", f"C++ compiler: {shlex.join(command)}")
    advice = f"install {' or '.join(COMPILERS)}, or name one by {COMPILER_VARIABLE}: native kernels are compiled here"
    named = "" if command is None else f" {command[0]!r}, which {COMPILER_VARIABLE} names"
    return Finding("note", f"no C++ compiler{named};", advice)
