"""What the entry of a call says."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_calls import call, outcome
from opened_ledger import opened, rows_of

from enginebay.gateway.call import Attempt
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.ledger.prices import Price, Prices, money
from enginebay.gateway.logs import make_logger
from enginebay.types import GenerationRequest, SamplingParams, TokenIds


def row_of(tmp_path, one_call, one_outcome) -> dict:
    with opened(tmp_path) as one:
        one.hook.at_end(one_call, one_outcome)
    [row] = rows_of(one.url)
    return row


def test_a_finished_call_has_its_counts_instants_and_cost(tmp_path) -> None:
    attempts = [Attempt("v2-0", 10.0), Attempt("v2-1", 10.5)]
    row = row_of(
        tmp_path,
        call("r", version="v2", attempts=attempts, first_token_at=10.75),
        outcome(num_cached_tokens=60),
    )
    assert row.pop("segment")
    assert row == {
        "position": 0,
        "request_id": "r",
        "arrived_at_unix": 997.5,
        "day": date(1970, 1, 1),
        "duration_s": 2.5,
        "ttft_s": 0.75,
        "key_id": "key-a",
        "model": "assistant",
        "version": "v2",
        "replica": "v2-1",
        "num_choices": 1,
        "num_attempts": 2,
        "resumed": None,
        "outcome": "finished",
        "error_code": None,
        "num_prompt_tokens": 100,
        "num_cached_tokens": 60,
        "num_output_tokens": 20,
        "num_unbilled_tokens": 0,
        # 40 fresh at 0.5, 60 cached at 0.05, 20 made at 2 EUR a million
        "cost_nano": 40 * 500 + 60 * 50 + 20 * 2000,
        "currency": "EUR",
    }


def test_a_cancelled_call_costs_what_the_gateway_received(tmp_path) -> None:
    row = row_of(tmp_path, call(), outcome("cancelled", num_output_tokens=7, num_unbilled_tokens=3))
    assert (row["outcome"], row["num_output_tokens"], row["num_unbilled_tokens"]) == ("cancelled", 7, 3)
    assert row["cost_nano"] == 100 * 500 + 7 * 2000


@pytest.mark.parametrize("kind", ["refused", "failed"])
def test_what_is_refused_or_fails_is_there_and_costs_nothing(tmp_path, kind) -> None:
    row = row_of(tmp_path, call(attempts=[]), outcome(kind, error_code="overloaded", num_output_tokens=4))
    assert (row["outcome"], row["error_code"], row["replica"]) == (kind, "overloaded", "")
    assert (row["num_output_tokens"], row["cost_nano"], row["currency"]) == (4, 0, "EUR")


@pytest.mark.parametrize(
    ("resumed", "told"),
    [((None, None), None), ((None, "exact"), "exact"), ((None, "exact", "approximate", "exact"), "approximate")],
)
def test_an_answer_that_another_replica_went_on_with_says_how_well(tmp_path, resumed, told) -> None:
    attempts = [Attempt(f"v1-{i}", 10.0, resumed=kind) for i, kind in enumerate(resumed)]
    row = row_of(tmp_path, call(attempts=attempts), outcome())
    assert (row["resumed"], row["num_attempts"], row["replica"]) == (told, len(resumed), f"v1-{len(resumed) - 1}")


def test_the_cost_of_a_model_without_a_price_is_unknown_and_not_zero(tmp_path) -> None:
    row = row_of(tmp_path, call(model="unpriced"), outcome())
    assert (row["cost_nano"], row["currency"]) == (None, None)


def test_no_word_of_a_prompt_and_no_address_reaches_journal_or_database(tmp_path) -> None:
    with opened(tmp_path) as one:
        one.hook.at_end(call(), outcome())
        one.writer.round()
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"r-1" in written
    for secret in (b"merger", b"192.0.2.7"):
        assert secret not in written


def test_each_call_has_one_entry_for_all_of_its_choices(tmp_path) -> None:
    requests = [
        GenerationRequest(request_id=f"r-{i}", prompt=TokenIds((1,)), sampling=SamplingParams(max_tokens=1))
        for i in range(3)
    ]
    row = row_of(tmp_path, call(requests=requests), outcome())
    assert row["num_choices"] == 3


def test_the_hook_costs_nothing_but_at_the_end(tmp_path) -> None:
    with opened(tmp_path) as one:
        hooks = Hooks([one.hook], make_logger())
        assert (hooks.before_engine, hooks.on_chunk, hooks._before_routing) == ((), (), [])
        assert len(hooks._at_end) == 1


# ---------------------------------------------------------------- prices

amounts = st.decimals(min_value=0, max_value=1000, places=6)
counts = st.integers(0, 10**7)


@given(amounts, amounts, counts, counts)
def test_costs_are_exact_to_a_billionth(prompt, output, num_prompt, num_output) -> None:
    price = Price.per_million(prompt=float(prompt), cached=None, output=float(output))
    cost = price.cost_nano(num_prompt_tokens=num_prompt, num_cached_tokens=0, num_output_tokens=num_output)
    exact = (num_prompt * prompt + num_output * output) / 10**6
    assert abs(money(cost) - exact) <= money(1) / 2


def test_cached_tokens_cost_as_much_as_others_where_they_have_no_price() -> None:
    price = Price.per_million(prompt=3.0, cached=None, output=15.0)
    assert price.cost_nano(num_prompt_tokens=10, num_cached_tokens=10, num_output_tokens=0) == 10 * 3000


def test_an_hour_of_a_machine_is_paid_by_the_tokens_that_it_makes_in_it() -> None:
    price = Price.per_hour(3.6, output_tokens_per_s=1000.0)
    in_an_hour = price.cost_nano(num_prompt_tokens=10**9, num_cached_tokens=0, num_output_tokens=3_600_000)
    assert money(in_an_hour) == money(3_600_000_000)


def test_prices_know_what_they_have_no_price_for() -> None:
    prices = Prices({"a": Price.per_million(prompt=1.0, cached=None, output=1.0)}, currency="USD")
    assert ("a" in prices, "b" in prices) == (True, False)
    assert prices.cost_nano("b", num_prompt_tokens=1, num_output_tokens=1) is None
    assert prices.cost_nano("a", num_prompt_tokens=1, num_output_tokens=1) == 2000
