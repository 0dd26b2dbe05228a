import pytest
from drawn_results import metrics, result, run

from enginebay.loadtest.engine_figures import EngineFigures
from enginebay.loadtest.metrics import Metrics
from enginebay.verdict.comparison.causes import CAUSES, Cause
from enginebay.verdict.comparison.judge import judge
from enginebay.verdict.verdict import Reason

LUCKS = (1.0, 1.01, 0.99, 1.02)


def reasons(first: EngineFigures, second: EngineFigures, *, speed: float = 1.5, **changes) -> dict[str, Reason]:
    runs = [
        run(label, index, metrics(factor * luck, **changes), engine=engine)
        for label, factor, engine in (("a", 1.0, first), ("b", speed, second))
        for index, luck in enumerate(LUCKS)
    ]
    [load] = judge(result(runs, labels=["a", "b"])).loads
    return {reason.quantity: reason for reason in load.reasons}


def test_what_both_engines_tell_and_what_differs_is_named_with_its_figures() -> None:
    first = EngineFigures(queue_s=0.35, batch_size=4.1, cache_hit_ratio=0.0, tokens_per_step=4.0)
    second = EngineFigures(queue_s=0.012, batch_size=7.8, cache_hit_ratio=0.4, tokens_per_step=7.7)
    found = reasons(first, second)
    assert found["queue_s"].sentence == "A request waited 12 ms for a place in the batch of b, 350 ms with a."
    assert found["batch_size"].sentence == "A step of b served 7.8 requests on average, one of a 4.1."
    assert found["cache_hit_ratio"].sentence == "b found 40 % of the prompt tokens in its prefix cache, a 0 %."
    assert found["tokens_per_step"].sentence == "A step of b gave 7.7 tokens, one of a 4."
    assert (found["queue_s"].first_value, found["queue_s"].second_value) == pytest.approx((0.35, 0.012))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (EngineFigures(queue_s=0.3), EngineFigures()),
        (EngineFigures(), EngineFigures(queue_s=0.3)),
        (EngineFigures(), EngineFigures()),
    ],
)
def test_nothing_is_said_of_what_one_engine_does_not_tell(first, second) -> None:
    assert "queue_s" not in reasons(first, second)


def test_nothing_is_said_of_what_hardly_differs() -> None:
    assert "batch_size" not in reasons(EngineFigures(batch_size=8.0), EngineFigures(batch_size=8.7))
    assert "cache_hit_ratio" not in reasons(EngineFigures(cache_hit_ratio=0.40), EngineFigures(cache_hit_ratio=0.41))


def test_nothing_is_said_of_what_a_single_start_overturns() -> None:
    sizes = {"a": [4.0, 4.0, 4.0, 9.0], "b": [8.0, 8.0, 8.0, 8.0]}
    runs = [
        run(label, index, metrics(speed * LUCKS[index]), engine=EngineFigures(batch_size=sizes[label][index]))
        for label, speed in (("a", 1.0), ("b", 1.5))
        for index in range(4)
    ]
    [load] = judge(result(runs, labels=["a", "b"])).loads
    assert "batch_size" not in {reason.quantity for reason in load.reasons}


def test_the_time_of_an_answer_is_parted_into_the_wait_and_the_tokens_after_it() -> None:
    # Answers of 0.2 s + 99 tokens of 20 ms; twice as fast, they take half of either.
    reason = reasons(EngineFigures(), EngineFigures(), speed=2.0)["e2e_s"]
    assert reason.sentence.startswith(
        "An answer took 1.08 s less with b than with a: 99.5 ms less up to its first token"
    )
    assert reason.sentence.endswith("985 ms less after it.")


def test_what_a_client_measures_stands_in_for_an_engine_that_tells_no_time_of_a_token() -> None:
    assert "Each further token took 9.95 ms with b, 19.9 ms with a." in {
        reason.sentence for reason in reasons(EngineFigures(), EngineFigures(), speed=2.0).values()
    }


def test_a_time_that_one_engine_tells_is_not_set_against_one_that_the_client_measured() -> None:
    """A client's includes the way to it, and the engine's does not."""
    found = reasons(EngineFigures(decode_s=0.001), EngineFigures(), speed=2.0)["decode_s"]
    assert found.sentence == "Each further token took 9.95 ms with b, 19.9 ms with a."
    both = reasons(EngineFigures(decode_s=0.018), EngineFigures(decode_s=0.009), speed=2.0)["decode_s"]
    assert (both.first_value, both.second_value) == pytest.approx((0.018, 0.009))


def test_why_is_told_only_where_something_was_decided() -> None:
    engines = EngineFigures(batch_size=4.0), EngineFigures(batch_size=8.0)
    runs = [
        run(label, index, metrics(luck), engine=engine)
        for label, engine, lucks in (("a", engines[0], (1.0, 1.5, 0.7)), ("b", engines[1], (1.4, 0.7, 1.1)))
        for index, luck in enumerate(lucks)
    ]
    verdict = judge(result(runs, labels=["a", "b"]))
    assert not verdict.has_decided
    assert not any("why" in sentence for sentence in verdict.sentences)
    assert [reason.quantity for reason in verdict.loads[0].reasons] == ["batch_size"]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.quantity)
def test_every_cause_is_told_by_something_that_a_run_has_and_says_both_names_and_both_values(cause: Cause) -> None:
    for path in cause.told_by:
        place, name = path.split(".")
        assert name in {"engine": EngineFigures, "metrics": Metrics}[place].__struct_fields__
    said = cause.sentence.format(first="<a>", second="<b>", first_value="<1>", second_value="<2>")
    assert [said.count(part) for part in ("<a>", "<b>", "<1>", "<2>")] == [1, 1, 1, 1]


def test_no_quantity_has_two_causes() -> None:
    names = [cause.quantity for cause in CAUSES]
    assert len(set(names)) == len(names) == 12
