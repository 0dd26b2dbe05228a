"""What is said of the gateway under chaos is what its result says."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "benchmarks" / "results" / "gateway_chaos.json").read_text())


def test_ten_thousand_requests_left_nothing_behind_and_every_account_agreed() -> None:
    assert RESULT["simulated"] is True
    assert RESULT["num_requests"] == RESULT["num_rows"] + RESULT["num_never_read"] >= 10_000
    assert RESULT["leftovers"] == {}
    assert RESULT["differences"] == []
    assert "hung" not in RESULT["endings_of_clients"]
    assert all(RESULT["acts"][act] >= 5 for act in ("kill", "stop", "reload", "bad reload"))


def test_the_page_says_what_the_result_says() -> None:
    page = " ".join((ROOT / "docs" / "pools.md").read_text().split())
    acts, outcomes = RESULT["acts"], RESULT["outcomes_in_ledger"]
    counted = (
        f"{RESULT['num_requests']:,} requests", f"{acts['kill']} kills", f"{acts['stop']} stops",
        f"{RESULT['num_reloads']} reloads", f"{RESULT['num_refused_reloads']} refused ones",
        f"{outcomes['finished']:,} finished", f"{outcomes['cancelled']:,} cancelled",
        f"{outcomes['refused']:,} refused", f"{outcomes['failed']:,} failed",
    )  # fmt: skip
    assert [text for text in counted if text not in page] == []
