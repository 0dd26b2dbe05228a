"""Chaos over real processes, as in benchmarks/gateway_chaos.py with fewer requests: nothing is left, all is told."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gateway_chaos import run_chaos

pytestmark = pytest.mark.slow
NUM_REQUESTS = 1_500


def test_after_chaos_over_processes_nothing_is_left_and_every_request_is_accounted_for(tmp_path: Path) -> None:
    outcome = run_chaos(tmp_path, num_requests=NUM_REQUESTS)
    assert outcome.leftovers == {}
    assert outcome.differences == []
    assert len(outcome.seen) == NUM_REQUESTS
    endings = Counter(each.ending for each in outcome.seen)
    assert all(endings[ending] > 20 for ending in ("answered", "streamed", "told", "left")), endings
    assert outcome.figures["outcomes_in_ledger"].keys() == {"finished", "cancelled", "failed", "refused"}
    assert outcome.figures["num_reloads"] >= 1
    assert outcome.figures["num_refused_reloads"] >= 1
    assert outcome.acts["kill"] >= 1
