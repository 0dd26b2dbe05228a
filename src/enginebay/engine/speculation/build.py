"""The speculator that the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginebay.engine.speculation.ngram import NgramProposer
from enginebay.engine.speculation.speculator import Speculator

if TYPE_CHECKING:
    from enginebay.engine.model_runner import ModelRunner
    from enginebay.engine.settings import EngineConfig

ROW_COST_RATIO = 0.1
"""What one more row in a step is taken to cost, as a share of a step: weights are read once for all of them."""


def build_speculator(config: EngineConfig, runner: ModelRunner) -> Speculator | None:
    """None where nothing is to be drafted."""
    if config.speculative_ngram is not None:
        return Speculator(
            NgramProposer(),
            max_num_tokens=config.speculative_ngram,
            max_model_len=runner.max_model_len,
            cost_ratio=ROW_COST_RATIO if config.speculative_adaptive else None,
        )
    return None
