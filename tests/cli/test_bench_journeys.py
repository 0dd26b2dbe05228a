"""`bench --replay`, `--sweep` and `--capacity` to their ends, over simulators."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from enginebay.cli.main import run
from enginebay.loadtest.capacity.result import load_capacity
from enginebay.loadtest.result import load_result
from enginebay.testing.simulators.performance import INSTANT
from enginebay.testing.simulators.thread import SimulatorThread


@pytest.fixture
def engine():
    with closing(SimulatorThread("vllm", profile=INSTANT)) as simulator:
        yield simulator


def write_config(folder: Path, url: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(
        "version: 1\nmodel: simulated\nbackend: one\n"
        f'backends:\n  one: {{kind: vllm, mode: external, url: "{url}", model: simulated}}\n'
        "bench:\n  users: [2]\n  num_requests: 12\n  prompt_counts: estimated\n  warmup_requests: 2\n"
        "  input_tokens: {min: 20, max: 40}\n  output_tokens: {min: 4, max: 8}\n  slo: {ttft_s: 1.0}\n"
        "  capacity: {probe_s: 0.3, max_probes: 2, start_rps: 50, percentile: 90}\n"
    )
    return path


def bench(*arguments: object) -> int:
    return run(["bench", *map(str, arguments)])


def test_a_result_is_measured_again_with_its_own_plan_or_refused_with_what_changed(tmp_path, engine, capsys) -> None:
    config = write_config(tmp_path, engine.url)
    assert bench(config, "--out", tmp_path / "out", "--seed", 5) in (0, 3)
    assert bench("--replay", tmp_path / "out", "--out", tmp_path / "again") in (0, 3)
    before, after = load_result(tmp_path / "out"), load_result(tmp_path / "again")
    assert (after.plan_sha256, after.seed) == (before.plan_sha256, 5)
    assert "enginebay compare" in capsys.readouterr().out
    assert bench("--replay", tmp_path / "out", "--users", 3) == 2
    assert "--replay takes the load of the result" in capsys.readouterr().err
    config.write_text(config.read_text() + "# changed\n")
    assert bench("--replay", tmp_path / "out") == 3
    assert "has changed since" in capsys.readouterr().err


def test_variants_of_a_sweep_are_measured_into_one_result(tmp_path, engine) -> None:
    variants = "{short: {options.connect_timeout_s: 5.0}, long: {options.connect_timeout_s: 9.0}}"
    (tmp_path / "sweep.yaml").write_text(f"variants: {variants}")
    config = write_config(tmp_path, engine.url)
    assert bench(config, "--sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out") in (0, 3)
    result = load_result(tmp_path / "out")
    assert [each.label for each in result.runs] == ["short", "long"]
    assert result.runs[1].configured_settings["connect_timeout_s"] == 9.0
    assert (tmp_path / "out" / "bench.yaml").exists()
    assert (tmp_path / "out" / "verdict.json").exists()


def test_the_capacity_of_a_simulator_is_searched_and_reported(tmp_path, engine, capsys) -> None:
    config = write_config(tmp_path, engine.url)
    assert bench(config, "--capacity", "--out", tmp_path / "out") in (0, 3)
    [capacity] = load_capacity(tmp_path / "out").capacities
    assert capacity.simulated
    assert 1 <= len(capacity.probes) <= 2
    assert "one (simulated)" in (tmp_path / "out" / "capacity.md").read_text()
    page = (tmp_path / "out" / "capacity.html").read_text()
    assert ("SIMULATED" in page, "How much it bears" in page) == (True, True)
    assert "Capacity" in capsys.readouterr().out
    config.write_text(config.read_text().replace("slo: {ttft_s: 1.0}", "slo: {}"))
    assert bench(config, "--capacity", "--out", tmp_path / "none") == 2
    assert "levels that have to hold" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--rate", "5"), ("--requests", "9"), ("--fail-on", "slower")])
def test_a_search_refuses_the_flags_that_it_would_not_heed(tmp_path, flags, capsys) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:9")
    assert bench(config, "--capacity", *flags, "--out", tmp_path / "out") == 2
    assert f"{flags[0]} is not for --capacity" in capsys.readouterr().err


def test_a_search_leaves_the_result_beside_it_whole_and_stands_in_its_report(tmp_path, engine) -> None:
    config, out = write_config(tmp_path, engine.url), tmp_path / "out"
    assert bench(config, "--out", out) in (0, 3)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".json", ".jsonl")}
    assert "How much it bears" not in (out / "report.html").read_text()
    assert bench(config, "--capacity", "--out", out) in (0, 3)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert "How much it bears" in (out / "report.html").read_text()
    assert "## How much it bears" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("journey", "flags"),
    [
        (("--replay", "out"), ("--backend", "one")),
        (("--self-check",), ("--seed", "0")),
        (("--self-check",), ("--backend", "one")),
        (("--url", "http://127.0.0.1:9"), ("--sweep", "sweep.yaml")),
    ],
)
def test_a_flag_that_a_journey_would_not_heed_is_refused_before_anything_is_asked(
    tmp_path, monkeypatch, capsys, journey, flags
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*journey, *flags) == 2
    assert f"{journey[0]} does not go with {flags[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("num_starts", [1, 2])
def test_a_plan_has_prompts_for_so_many_starts_of_a_server_that_runs_on(tmp_path, engine, capsys, num_starts) -> None:
    config = write_config(tmp_path, engine.url)
    assert bench(config, "--out", tmp_path / "out", "--starts", num_starts) in (0, 3)
    capsys.readouterr()
    assert bench("--replay", tmp_path / "out", "--starts", 3) == 2
    assert f"--starts 3: the plan has prompts for {num_starts}" in capsys.readouterr().err


def test_a_gate_that_one_backend_cannot_pass_or_fail_is_refused_before_anything_is_measured(
    tmp_path, engine, capsys
) -> None:
    config = write_config(tmp_path, engine.url)
    for flags in (("--fail-on", "slower"), ("--fail-on", "nonsense"), ("--junit", "x.xml"), ("--picture", "x.gif")):
        assert bench(config, "--out", tmp_path / "out", *flags) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    assert bench(config, "--out", tmp_path / "out", "--fail-on", "invalid") in (0, 1)
