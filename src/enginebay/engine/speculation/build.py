"""The speculator that the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginebay.engine.speculation.draft_length import DraftCost
from enginebay.engine.speculation.draft_model import DraftModelProposer
from enginebay.engine.speculation.ngram import NgramProposer
from enginebay.engine.speculation.proposer import Proposer
from enginebay.engine.speculation.speculator import Speculator
from enginebay.errors import ConfigError

if TYPE_CHECKING:
    from enginebay.engine.model_runner import ModelRunner
    from enginebay.engine.settings import EngineConfig

ROW_COST_RATIO = 0.1
"""What one more row is taken to add to a step of one row, see `DraftCost`. More than benchmarks/row_cost.py measures
with the native kernels (0.03 to 0.07), so drafts are rather too short there than too long."""


def build_speculator(config: EngineConfig, runner: ModelRunner) -> Speculator | None:
    """None where nothing is to be drafted. Raises ConfigError under static batching: its members move on together."""
    if config.policy == "static" and (config.speculative_ngram is not None or runner.draft is not None):
        raise ConfigError("static batches cannot speculate", path="policy", expected="continuous, dynamic or naive")
    if config.speculative_ngram is not None:
        return _speculator(config, runner, NgramProposer(), config.speculative_ngram, cost=DraftCost(ROW_COST_RATIO))
    if runner.draft is None or runner.draft_weights is None:
        return None
    model = runner.model_config
    proposer = DraftModelProposer(
        runner.draft,
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        device=runner.device,
        max_num_batched_tokens=config.max_num_batched_tokens,
        draws=not config.batch_invariant,
    )
    cost = DraftCost(ROW_COST_RATIO, proposal_ratio=runner.draft_weights.cost_ratio)
    return _speculator(config, runner, proposer, config.speculative_num_tokens, cost=cost)


def _speculator(
    config: EngineConfig, runner: ModelRunner, proposer: Proposer, max_num_tokens: int, *, cost: DraftCost
) -> Speculator:
    return Speculator(
        proposer,
        max_num_tokens=max_num_tokens,
        max_model_len=runner.max_model_len,
        cost=cost if config.speculative_adaptive else None,
    )
