import io

import msgspec
import pytest
from report_fakes import save_three_policies
from rich.console import Console

from enginebay.cli.main import run as enginebay
from enginebay.errors import NotComparable
from enginebay.loadtest.result import InvalidReason, Result, save_result
from enginebay.report.comparison import INVALID, SIMULATED, UNDECIDED, paired_runs, print_comparison


@pytest.fixture
def result(tmp_path) -> Result:
    return save_three_policies(tmp_path)


def only(result: Result, label: str, **changes) -> Result:
    runs = [msgspec.structs.replace(run, **changes) for run in result.runs if run.label == label]
    return msgspec.structs.replace(result, runs=runs)


def test_runs_of_one_label_are_paired(result) -> None:
    assert [(pair.first.label, pair.second.label) for pair in paired_runs(result, result)] == [
        ("naive", "naive"), ("static", "static"), ("continuous", "continuous"),
    ]  # fmt: skip


def test_two_labels_are_paired_where_each_side_has_one(result) -> None:
    [pair] = paired_runs(only(result, "static"), only(result, "continuous"))
    assert (pair.first.label, pair.second.label) == ("static", "continuous")


def test_results_of_different_plans_are_not_compared(result) -> None:
    other = msgspec.structs.replace(result, plan_sha256="cd" * 32)
    with pytest.raises(NotComparable, match="abababababab and cdcdcdcdcdcd"):
        paired_runs(result, other)


def test_runs_over_different_transports_are_not_compared(result) -> None:
    with pytest.raises(NotComparable, match="different transports"):
        paired_runs(only(result, "static"), only(result, "static", transport="in_process"))


def test_nothing_in_common_is_said(result) -> None:
    several = msgspec.structs.replace(result, runs=result.runs[:2])
    with pytest.raises(NotComparable, match="no run in common"):
        paired_runs(several, only(result, "continuous"))


def test_a_single_start_decides_nothing_and_simulated_or_invalid_runs_get_no_verdict(result) -> None:
    reason = [InvalidReason(code="errors", detail="many")]
    [plain] = paired_runs(only(result, "static"), only(result, "continuous"))
    [simulated] = paired_runs(only(result, "static"), only(result, "continuous", simulated=True))
    [invalid] = paired_runs(only(result, "static", valid=False, invalid_reasons=reason), only(result, "static"))
    assert [pair.outcome for pair in (plain, simulated, invalid)] == [UNDECIDED, SIMULATED, INVALID]


def test_the_table_gives_both_sides_and_their_ratio(result) -> None:
    pairs = paired_runs(only(result, "naive"), only(result, "continuous"))
    console = Console(file=io.StringIO(), width=140)
    print_comparison(pairs, console, names=("a", "b"), has_levels=False)
    assert "7.52×" in console.file.getvalue()
    assert "undecided" in console.file.getvalue()


def test_the_table_gives_no_ratio_where_there_is_no_verdict(result) -> None:
    pairs = paired_runs(only(result, "naive"), only(result, "continuous", valid=False))
    console = Console(file=io.StringIO(), width=140)
    print_comparison(pairs, console, names=("a", "b"), has_levels=False)
    assert "×" not in console.file.getvalue()
    assert "no verdict (invalid)" in console.file.getvalue()


def test_the_command_reads_folders_or_files_and_ends_with_no_verdict(tmp_path, result, capsys) -> None:
    assert enginebay(["compare", str(tmp_path), str(tmp_path / "result.json")]) == 3
    assert "undecided" in capsys.readouterr().out


def test_the_command_names_what_it_cannot_compare(tmp_path, result, capsys) -> None:
    (tmp_path / "other").mkdir()
    save_result(msgspec.structs.replace(result, plan_sha256="cd" * 32), tmp_path / "other" / "result.json")
    assert enginebay(["compare", str(tmp_path), str(tmp_path / "other")]) == 3
    assert "different plans" in capsys.readouterr().err
    assert enginebay(["compare", str(tmp_path), str(tmp_path / "nowhere.json")]) == 2
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
