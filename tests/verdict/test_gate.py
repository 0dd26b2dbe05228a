import junitparser
import msgspec
import pytest
from drawn_results import drawn_result

from enginebay.errors import ConfigError
from enginebay.loadtest.result import InvalidReason
from enginebay.verdict.comparison.judge import judge
from enginebay.verdict.gate import exit_code, gate_failures, parse_gates
from enginebay.verdict.junit import junit_xml
from enginebay.verdict.outputs.agreement import OutputAgreement
from enginebay.verdict.verdict import Verdict

SLOWER = judge(drawn_result({"a": 1.0, "b": 0.5}))
FASTER = judge(drawn_result({"a": 1.0, "b": 2.0}))
UNDECIDED = judge(drawn_result({"a": 1.0, "b": 1.0}, num_starts=3, seed=1))
EQUIVALENT = judge(drawn_result({"a": 1.0, "b": 1.0}, noise=0.002))


def agreement(**changes) -> OutputAgreement:
    return OutputAgreement(first="a", second="b", where="8 users", finding="3 of 48 answers part", **changes)


SKIPPED = agreement(not_compared="simulated")


def with_outputs(verdict: Verdict, *outputs: OutputAgreement) -> Verdict:
    return msgspec.structs.replace(verdict, outputs=outputs)


def with_an_invalid_run() -> Verdict:
    drawn = drawn_result({"a": 1.0, "b": 0.5})
    reasons = [InvalidReason(code="errors", detail="<many> & more")]
    runs = [
        msgspec.structs.replace(run, valid=False, invalid_reasons=reasons)
        if (run.label, run.start_index) == ("b", 0)
        else run
        for run in drawn.runs
    ]
    return judge(msgspec.structs.replace(drawn, runs=runs))


def simulated() -> Verdict:
    drawn = drawn_result({"a": 1.0, "b": 0.5})
    return judge(
        msgspec.structs.replace(drawn, runs=[msgspec.structs.replace(run, simulated=True) for run in drawn.runs])
    )


def lengths_apart() -> Verdict:
    against = (InvalidReason(code="output_lengths_apart", detail="100 and 90"),)
    loads = [msgspec.structs.replace(load, status="invalid", against=against) for load in simulated().loads]
    return msgspec.structs.replace(simulated(), status="invalid", loads=tuple(loads))


@pytest.mark.parametrize(
    ("verdict", "gates", "code"),
    [
        (FASTER, "", 0),
        (FASTER, "slower,invalid", 0),
        (SLOWER, "", 0),
        (SLOWER, "slower", 1),
        (SLOWER, "invalid", 0),
        (EQUIVALENT, "slower,undecided", 0),
        (UNDECIDED, "slower", 3),
        (UNDECIDED, "undecided", 1),
        (with_an_invalid_run(), "", 3),
        (with_an_invalid_run(), "invalid", 1),
        (with_an_invalid_run(), "slower", 1),
        (simulated(), "slower,invalid,outputs", 3),
        (simulated(), "undecided", 1),
        (lengths_apart(), "slower", 3),
        (lengths_apart(), "invalid", 1),
        (with_outputs(FASTER, agreement(is_beyond_bound=True)), "outputs", 1),
        (with_outputs(FASTER, agreement(is_beyond_bound=True)), "slower", 0),
        (with_outputs(FASTER, agreement()), "outputs", 0),
        (with_outputs(FASTER, agreement(not_compared="drawn by chance")), "outputs", 3),
        (with_outputs(FASTER, agreement(), msgspec.structs.replace(SKIPPED, second="c")), "outputs", 3),
        (with_outputs(FASTER, agreement(), SKIPPED), "outputs", 0),
        (FASTER, "outputs", 3),
    ],
)
def test_the_exit_code_tells_what_a_gate_found(verdict, gates, code) -> None:
    assert exit_code(verdict, parse_gates(gates)) == code


def test_each_failure_is_told_by_its_figure() -> None:
    failures = gate_failures(SLOWER, parse_gates("slower"))
    assert len(failures) == 7
    assert failures[0].message.startswith("8 users: b is slower than a: output_tokens_per_s × 0.")


def test_gates_are_names_with_commas_and_others_are_refused() -> None:
    assert parse_gates(" slower , outputs,") == {"slower", "outputs"}
    assert parse_gates(None) == frozenset()
    with pytest.raises(ConfigError, match="--fail-on has no 'slow'; expected slower, invalid, outputs, undecided"):
        parse_gates("slow")


def parsed(verdict: Verdict, gates: str) -> junitparser.JUnitXml:
    return junitparser.JUnitXml.fromstring(junit_xml(verdict, parse_gates(gates)))


def results_of(verdict: Verdict, gates: str) -> list[junitparser.junitparser.Result]:
    return [result for suite in parsed(verdict, gates) for case in suite for result in case.result]


def results(verdict: Verdict, gates: str) -> list[type]:
    return [type(result) for result in results_of(verdict, gates)]


def test_junit_has_a_suite_for_each_load_and_a_case_for_each_figure() -> None:
    [suite] = parsed(SLOWER, "slower")
    assert suite.name == "b against a, 8 users"
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (7, 7, 0, 0)
    [first, *_] = suite
    assert first.name == "output tokens per second"
    assert first.result[0].message.startswith("slower: output tokens per second ")


def test_junit_fails_for_the_gates_alone_and_skips_what_is_undecided() -> None:
    assert results(SLOWER, "invalid") == []
    assert set(results(UNDECIDED, "slower")) == {junitparser.Skipped}
    assert set(results(UNDECIDED, "undecided")) == {junitparser.Failure}
    assert set(results(simulated(), "slower,invalid,outputs")) == {junitparser.Skipped}


def test_junit_tells_of_invalid_runs_and_of_outputs() -> None:
    verdict = with_outputs(with_an_invalid_run(), agreement(is_beyond_bound=True))
    root = parsed(verdict, "invalid,outputs")
    messages = [result.message for suite in root for case in suite for result in case.result]
    assert messages == ["b, 8 users, start 1: errors: <many> & more", "3 of 48 answers part"]
    assert (root.tests, root.failures) == (9, 2)
    [failure] = [one for one in results_of(lengths_apart(), "invalid") if isinstance(one, junitparser.Failure)]
    assert failure.message == "b against a: output_lengths_apart: 100 and 90"
