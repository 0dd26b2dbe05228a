"""docs/equality.md tells the bounds that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginebay.config.bench import BenchConfig
from enginebay.loadtest.asking import MAX_TOKENS
from enginebay.verdict.outputs.bounds import MAX_UNEXPLAINED_RATIO, bound_for
from enginebay.verdict.outputs.of_result import MOST_GRANTED

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "equality.md").read_text().split())


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    assert "That is 0.5 in bfloat16 and 0.06 in float16" in PAGE
    assert bound_for({"dtype": "bfloat16"}).max_difference == 0.5
    assert bound_for({"dtype": "float16"}).max_difference == pytest.approx(0.06, abs=0.003)
    assert "for more than the last step, 0.001" in PAGE
    assert bound_for({"dtype": "float32"}).max_difference == 0.001
    assert "3 for each hundred tokens in bfloat16 and float16" in PAGE
    assert {bound_for({"dtype": name}).max_partings_per_token for name in ("bfloat16", "float16")} == {0.03}
    assert "and 0.2 in float32" in PAGE
    assert bound_for({"dtype": "float32"}).max_partings_per_token == 0.002
    assert "more than one in twenty partings" in PAGE
    assert MAX_UNEXPLAINED_RATIO == 1 / 20
    assert "is granted twice its own, up to twice the bound" in PAGE
    assert MOST_GRANTED == 2


def test_the_page_tells_how_many_prompts_are_asked_again() -> None:
    assert f"`bench.logprob_prompts` prompts ({BenchConfig().logprob_prompts} unless told otherwise)" in PAGE
    assert f"up to {MAX_TOKENS} tokens each" in PAGE
