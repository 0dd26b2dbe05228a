"""No journey of `bench` loses a result that lies in its folder already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enginebay.cli.main import run
from enginebay.loadtest.result_folder import claimed
from enginebay.testing.simulators.performance import INSTANT
from enginebay.testing.simulators.thread import SimulatorThread

DONE = (0, 3)
USAGE = 2


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatorThread]:
    with closing(SimulatorThread("vllm", profile=INSTANT)) as simulator:
        yield simulator


@pytest.fixture
def config(tmp_path: Path, engine: SimulatorThread) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "version: 1\nmodel: simulated\nbackend: one\n"
        f'backends:\n  one: {{kind: vllm, mode: external, url: "{engine.url}", model: simulated}}\n'
        "bench:\n  users: [2]\n  num_requests: 8\n  prompt_counts: estimated\n  warmup_requests: 0\n"
        "  input_tokens: {min: 20, max: 40}\n  output_tokens: {min: 4, max: 8}\n  slo: {ttft_s: 1.0}\n"
        "  capacity: {probe_s: 0.2, max_probes: 1, start_rps: 50, percentile: 80}\n"
    )
    return path


def bench(*arguments: object) -> int:
    return run(["bench", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SWEEP = "variants: {short: {options.connect_timeout_s: 5.0}, long: {options.connect_timeout_s: 9.0}}"


def journeys(config: Path, engine: SimulatorThread) -> dict[str, tuple[object, ...]]:
    sweep = config.with_name("sweep.yaml")
    sweep.write_text(SWEEP)
    return {
        "config": (config,),
        "capacity": (config, "--capacity"),
        "url": ("--url", engine.url, "--requests", 8, "--users", 2),
        "sweep": (config, "--sweep", sweep),
    }


@pytest.mark.parametrize("journey", ["config", "capacity", "url", "sweep"])
def test_a_second_measurement_into_a_folder_is_refused_and_touches_nothing_in_it(
    journey: str, config: Path, engine: SimulatorThread, tmp_path: Path, capsys
) -> None:
    out, words = tmp_path / "out", journeys(config, engine)[journey]
    assert bench(*words, "--out", out) in DONE
    before = content(out)
    assert bench(*words, "--out", out) == USAGE
    told = capsys.readouterr().err
    assert content(out) == before
    for remedy in ("--out", "--resume", "--overwrite"):
        assert remedy in told
    assert bench(*words, "--out", out, "--overwrite") in DONE
    file = "capacity.json" if journey == "capacity" else "result.json"
    assert content(out)[file] != before[file]


def test_a_second_replay_of_a_result_does_not_replace_the_first(config: Path, tmp_path: Path, capsys) -> None:
    assert bench(config, "--out", tmp_path / "out") in DONE
    assert bench("--replay", tmp_path / "out") in DONE
    before = content(tmp_path / "out-again")
    assert bench("--replay", tmp_path / "out") == USAGE
    assert "out-again" in capsys.readouterr().err
    assert content(tmp_path / "out-again") == before


def test_a_result_is_not_its_own_replay(config: Path, tmp_path: Path) -> None:
    """The plan that is replayed would be gone before it is read."""
    assert bench(config, "--out", tmp_path / "out") in DONE
    assert bench("--replay", tmp_path / "out", "--out", tmp_path / "out", "--overwrite") in DONE


def test_a_search_beside_a_result_leaves_the_config_that_the_result_was_measured_with(
    engine: SimulatorThread, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert bench("--url", engine.url, "--out", out, "--requests", 8, "--users", 2) in DONE
    before = (out / "bench.yaml").read_bytes()
    capsys.readouterr()
    assert bench("--url", engine.url, "--out", out, "--capacity") == USAGE, "it has no levels"
    assert "needs levels that have to hold" in capsys.readouterr().err
    assert (out / "bench.yaml").read_bytes() == before
    assert bench("--url", engine.url, "--out", out, "--resume", "--model", "other") == USAGE
    assert "--model:" in capsys.readouterr().err


def test_a_sweep_that_goes_on_must_be_the_one_of_before(config: Path, tmp_path: Path, capsys) -> None:
    sweep, out = tmp_path / "sweep.yaml", tmp_path / "out"
    sweep.write_text(SWEEP)
    assert bench(config, "--sweep", sweep, "--out", out) in DONE
    before = content(out)
    sweep.write_text(SWEEP.replace("9.0", "8.0"))
    assert bench(config, "--sweep", sweep, "--out", out, "--resume") == USAGE
    assert "another sweep or config" in capsys.readouterr().err
    assert content(out) == before


def test_to_go_on_and_to_begin_anew_exclude_each_other(config: Path, tmp_path: Path, capsys) -> None:
    assert bench(config, "--out", tmp_path / "out", "--resume", "--overwrite") == USAGE
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize("journey", ["config", "capacity", "url", "sweep"])
@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--resume",)], ids=str)
def test_what_begins_while_another_measures_into_the_folder_asks_nothing_and_writes_nothing(
    journey: str, flags: tuple[str, ...], config: Path, engine: SimulatorThread, tmp_path: Path, capsys
) -> None:
    out, words = tmp_path / "out", journeys(config, engine)[journey]
    with claimed(out):
        before = content(out)
        assert bench(*words, "--out", out, *flags) == USAGE
        assert content(out) == before
    told = capsys.readouterr()
    assert "another `enginebay bench`" in told.err
    assert told.out == ""


def test_what_is_refused_leaves_no_folder_behind(tmp_path: Path, capsys) -> None:
    assert bench(tmp_path / "none.yaml", "--out", tmp_path / "out") == USAGE
    assert "none.yaml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
