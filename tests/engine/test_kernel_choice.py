"""Which kernels are chosen, and why: every cell of the table, on machines that are made up."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from enginebay.engine.kernels import choose_layers, expected_kernels
from enginebay.engine.kernels.choice import Choice, choose_kernels
from enginebay.engine.kernels.native.build import is_compiled
from enginebay.engine.kernels.packed import packing_is_available
from enginebay.errors import ConfigError, ModelError

CPU = torch.device("cpu")
PACKS = packing_is_available(CPU, torch.bfloat16)
MODEL: Any = SimpleNamespace(head_dim=64, num_heads=9, num_kv_heads=3)


def chosen(
    kernels: str = "auto", quantization: str | None = None, *, lacks: str | None = None, model: Any = MODEL, **told: Any
) -> Choice:
    return choose_kernels(
        kernels, quantization, model=model, why_not_native=lambda: lacks,
        **{"dtype": torch.bfloat16, "device": CPU, **told},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("quantization", "lacks", "kernels"),
    [
        (None, None, "native"),
        (None, "no AMX", "packed" if PACKS else "plain"),
        ("int8", None, "native"),
        ("int8", "no AMX", "plain"),
        ("int8_weight_only", None, "plain"),
        ("int8_weight_only", "no AMX", "plain"),
    ],
)
def test_auto_takes_the_fastest_that_there_is(quantization: str | None, lacks: str | None, kernels: str):
    assert chosen(quantization=quantization, lacks=lacks).kernels == kernels


def test_the_reason_names_every_better_one_that_cannot_be():
    assert chosen("auto", "int8", lacks="no AMX").why == "not native: no AMX; not packed: they have no int8"
    assert "they are for bfloat16" in chosen(dtype=torch.float32).why
    assert chosen(batch_invariant=True, lacks="no AMX").why.endswith("not packed: they are not batch-invariant")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"head_dim": 40}, "heads of 40 are not a multiple of 16"),
        ({"head_dim": 272}, "heads of 272 are not a multiple of 16 up to 256"),
        ({"num_heads": 34, "num_kv_heads": 2}, "17 heads share a key head"),
    ],
)
def test_a_model_whose_shape_does_not_suit_the_native_ones_says_so(shape: dict[str, int], reason: str):
    model = SimpleNamespace(**{**vars(MODEL), **shape})
    assert reason in chosen(model=model).why
    with pytest.raises(ModelError, match=reason):
        chosen("native", model=model)


def test_what_was_asked_for_by_name_is_given_or_refused():
    assert chosen("plain").kernels == "plain"
    assert chosen("native").kernels == "native"
    with pytest.raises(ModelError, match="kernels native: no AMX; use auto"):
        chosen("native", lacks="no AMX")
    with pytest.raises(ModelError, match="kernels packed have no int8"):
        chosen("packed", "int8")
    with pytest.raises(ModelError, match="kernels packed are for bfloat16"):
        chosen("packed", dtype=torch.float32)
    with pytest.raises(ModelError, match="kernels native have no int8_weight_only"):
        chosen("native", "int8_weight_only")
    with pytest.raises(ModelError, match="'quick' is not known; use auto"):
        chosen("quick")
    with pytest.raises(ModelError, match="'int2' is not known; use int8"):
        chosen(quantization="int2")
    with pytest.raises(ConfigError, match="cannot be batch-invariant"):
        chosen("packed", batch_invariant=True)


@pytest.mark.parametrize("quantization", [None, "int8", "int8_weight_only"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_expected_is_what_is_made(quantization: str | None, dtype: torch.dtype):
    told: dict[str, Any] = {"model": MODEL, "dtype": dtype, "device": CPU}
    assert expected_kernels("auto", quantization, **told).kernels == choose_layers("auto", quantization, **told).name


@pytest.mark.parametrize("home", ["~nobody-is-called-so", "/" + 300 * "x"])
def test_a_home_that_cannot_be_found_or_read_has_no_kernels_and_keeps_nobody_from_starting(
    home: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("enginebay.engine.kernels.what_this_machine_lacks", lambda: None)
    monkeypatch.setenv("ENGINEBAY_HOME", home)
    monkeypatch.setenv("CXX", sys.executable)  # any program that is there
    assert not is_compiled()
    found = expected_kernels("auto", None, model=MODEL, dtype=torch.bfloat16, device=CPU)
    assert (found.kernels, "compiled at the first start" in found.why) == ("native", True)


@pytest.mark.parametrize("command", ['g++ "', "no-such-compiler -pipe"])
def test_a_compiler_that_is_named_and_not_there_leads_to_other_kernels(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("enginebay.engine.kernels.what_this_machine_lacks", lambda: None)
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", command)
    found = expected_kernels("auto", None, model=MODEL, dtype=torch.bfloat16, device=CPU)
    assert found.kernels != "native"
    assert "which is not there" in found.why
