from pathlib import Path

import junitparser
import msgspec
import pytest
from drawn_results import drawn_result

from enginebay.cli.main import run as enginebay
from enginebay.loadtest.result import Result, load_result, save_result
from enginebay.loadtest.validity.unchecked import Unchecked
from enginebay.verdict.comparison.judge import judge
from enginebay.verdict.verdict import load_verdict


@pytest.fixture
def saved(tmp_path):
    def save(name: str, result: Result) -> str:
        (tmp_path / name).mkdir()
        save_result(result, tmp_path / name / "result.json")
        return str(tmp_path / name)

    return save


def test_one_result_is_compared_within_itself_and_says_what_bench_said(saved, tmp_path, capsys) -> None:
    folder = saved("out", drawn_result({"a": 1.0, "b": 1.5}))
    assert enginebay(["compare", folder, "--json", str(tmp_path / "verdict.json")]) == 0
    assert "faster" in capsys.readouterr().out
    verdict = load_verdict(tmp_path)
    assert msgspec.structs.replace(verdict, caveats=()) == judge(load_result(Path(folder)))
    assert "nobody has audited" in verdict.caveats[0], "no certificate lies in the folder"


def test_two_results_are_compared_by_the_names_of_their_folders(saved, capsys) -> None:
    old, new = saved("old", drawn_result({"vllm": 1.0})), saved("new", drawn_result({"vllm": 0.6}, seed=1))
    assert enginebay(["compare", old, new]) == 0
    assert "vllm (new) is slower than vllm (old)" in " ".join(capsys.readouterr().out.split())


def test_an_upgrade_that_is_slower_fails_the_gate(saved, capsys) -> None:
    old, new = saved("old", drawn_result({"vllm": 1.0})), saved("new", drawn_result({"vllm": 0.6}, seed=1))
    assert enginebay(["compare", old, new, "--fail-on", "slower"]) == 1
    assert "gate slower: 8 users: vllm (new) is slower" in " ".join(capsys.readouterr().out.split())
    assert enginebay(["compare", new, old, "--fail-on", "slower"]) == 0


def test_a_file_serves_as_well_as_its_folder(saved) -> None:
    assert enginebay(["compare", f"{saved('out', drawn_result({'a': 1.0, 'b': 1.5}))}/result.json"]) == 0


def test_what_decides_nothing_ends_with_3(saved) -> None:
    drawn = drawn_result({"a": 1.0, "b": 1.5})
    simulated = [msgspec.structs.replace(run, simulated=True) for run in drawn.runs]
    assert enginebay(["compare", saved("few", drawn_result({"a": 1.0, "b": 1.5}, num_starts=1))]) == 3
    assert enginebay(["compare", saved("simulated", msgspec.structs.replace(drawn, runs=simulated))]) == 3


def test_a_margin_can_be_given(saved) -> None:
    folder = saved("out", drawn_result({"a": 1.0, "b": 0.9}, noise=0.002))
    assert enginebay(["compare", folder, "--fail-on", "slower"]) == 1
    assert enginebay(["compare", folder, "--fail-on", "slower", "--margin", "0.2"]) == 0
    assert enginebay(["compare", folder, "--margin", "-0.2"]) == 2


def test_the_verdict_is_written_for_ci_and_for_people(saved, tmp_path) -> None:
    folder = saved("out", drawn_result({"a": 1.0, "b": 0.5}))
    junit, markdown = tmp_path / "junit.xml", tmp_path / "verdict.md"
    written = ["--junit", str(junit), "--markdown", str(markdown)]
    assert enginebay(["compare", folder, "--fail-on", "slower", *written]) == 1
    [suite] = junitparser.JUnitXml.fromfile(str(junit))
    assert (suite.tests, suite.failures) == (7, 7)
    assert "**b against a: slower in 7 of 7 figures.**" in markdown.read_text()


def test_what_cannot_be_compared_is_named(saved, capsys) -> None:
    one = saved("one", drawn_result({"a": 1.0}))
    other = saved("other", drawn_result({"a": 1.0}, plan_sha256="cd" * 32))
    assert enginebay(["compare", one, other]) == 3
    assert "different plans" in capsys.readouterr().err
    assert enginebay(["compare", one]) == 3
    assert "two backends" in capsys.readouterr().err
    assert enginebay(["compare", one, f"{other}/nowhere.json"]) == 2
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
    assert enginebay(["compare", one, other, "--fail-on", "sometimes"]) == 2
    assert "--fail-on has no 'sometimes'" in capsys.readouterr().err


def test_what_was_never_looked_at_is_named(saved, tmp_path) -> None:
    drawn = drawn_result({"a": 1.0, "b": 1.5})
    missing = Unchecked(code="usage_disagrees", why="no tokenizer of the model was at hand to count a second time")
    runs = [msgspec.structs.replace(run, unchecked=[missing]) for run in drawn.runs]
    folder = saved("out", msgspec.structs.replace(drawn, runs=runs))
    enginebay(["compare", folder, "--json", str(tmp_path / "verdict.json")])
    caveats = load_verdict(tmp_path).caveats
    assert f"Not looked at (usage_disagrees) of a and b: {missing.why}." in caveats
    assert "out: without records.jsonl and plan.json the outputs were not compared." in caveats


def test_the_same_result_twice_is_said_to_be_no_comparison(saved, capsys) -> None:
    folder = saved("out", drawn_result({"a": 1.0, "b": 1.5}))
    assert enginebay(["compare", folder, f"{folder}/result.json"]) == 3
    assert "are one result" in capsys.readouterr().err
