"""The default workload on the demo model: its prompts, not a switch, make outputs as long as planned."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import length_capped

pytestmark = [pytest.mark.weights, pytest.mark.timeout(600)]


def test_at_least_95_of_100_outputs_reach_max_tokens_without_ignoring_the_end_of_sequence() -> None:
    [row] = asyncio.run(length_capped.measure(range(1), num_requests=96))
    assert row["num_requests"] == 96
    assert row["num_capped"] >= 0.95 * 96


def test_the_plan_that_is_measured_lets_the_model_end_and_is_otherwise_the_default_one() -> None:
    plan = length_capped.default_plan(0, num_requests=48)
    requests = plan.loads[0].requests
    assert not any(request.sampling.ignore_eos or request.sampling.min_tokens for request in requests)
    assert plan.workload == "48 requests, 16 to 256 tokens in, 16 to 64 out, outputs end where the model ends"
