"""A run that cannot be believed is shown and loses its say: it wins nothing, and no setting brings it back."""

import msgspec
import pytest
from drawn_results import drawn_result

from enginebay.loadtest.result import InvalidReason, Result
from enginebay.loadtest.validity.catalogue import REASONS
from enginebay.verdict.comparison.judge import judge
from enginebay.verdict.gate import GATES, exit_code

RUN_CODES = [reason.code for reason in REASONS if reason.scope == "run"]


def faster_b() -> Result:
    """b is truly twice as fast, and with valid runs the verdict says so."""
    return drawn_result({"a": 1.0, "b": 2.0}, num_starts=8)


def with_b(result: Result, **changes) -> Result:
    runs = [msgspec.structs.replace(run, **changes) if run.label == "b" else run for run in result.runs]
    return msgspec.structs.replace(result, runs=runs)


def outcomes(result: Result) -> set[str]:
    return {metric.outcome for metric in judge(result).metrics}


def test_the_difference_is_there_to_be_found() -> None:
    assert "faster" in outcomes(faster_b())


@pytest.mark.parametrize("code", RUN_CODES)
def test_an_invalid_side_is_never_faster_whatever_the_reason(code) -> None:
    reasons = [InvalidReason(code=code, detail="beyond its bound")]
    invalid = with_b(faster_b(), valid=False, invalid_reasons=reasons)
    verdict = judge(invalid)
    assert outcomes(invalid) == {"undecided"}
    assert verdict.status == "invalid"
    assert any(code in caveat for caveat in verdict.caveats)
    assert exit_code(verdict, set()) == 3
    assert exit_code(verdict, {"invalid"}) == 1


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("gates", [frozenset(), frozenset({"slower"}), frozenset(GATES) - {"undecided"}])
def test_a_simulated_side_ends_without_a_verdict_and_no_setting_lifts_that(margin, gates) -> None:
    verdict = judge(with_b(faster_b(), simulated=True), margin=margin)
    assert verdict.status == "simulated"
    assert "no verdict (simulated)" in " ".join([verdict.headline, *verdict.sentences]).lower()
    assert {metric.outcome for metric in verdict.metrics} == {"undecided"}
    assert exit_code(verdict, gates) == 3


def test_one_simulated_run_of_many_is_enough() -> None:
    result = faster_b()
    last = [index for index, run in enumerate(result.runs) if run.label == "b"][-1]
    runs = [
        msgspec.structs.replace(run, simulated=True) if index == last else run for index, run in enumerate(result.runs)
    ]
    assert judge(msgspec.structs.replace(result, runs=runs)).status == "simulated"


@pytest.mark.parametrize(("longer", "status"), [(1.049, "judged"), (1.06, "invalid")])
def test_a_side_that_makes_longer_outputs_is_not_set_against_the_other(longer, status) -> None:
    result = faster_b()

    def lengthened(run):
        factor = longer if run.label == "b" else 1
        metrics = msgspec.structs.replace(run.metrics, num_output_tokens=round(run.metrics.num_output_tokens * factor))
        return msgspec.structs.replace(run, metrics=metrics)

    runs = [lengthened(run) for run in result.runs]
    verdict = judge(msgspec.structs.replace(result, runs=runs))
    assert verdict.status == status
    if status == "invalid":
        assert {metric.outcome for metric in verdict.metrics} <= {"undecided"}
