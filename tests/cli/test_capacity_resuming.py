"""`bench --capacity --resume`: probes are kept, or refused with what is different."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enginebay.cli.main import run
from enginebay.loadtest.capacity.result import load_capacity
from enginebay.testing.simulators.performance import INSTANT
from enginebay.testing.simulators.thread import SimulatorThread

DONE = (0, 3)
REFUSED = 3


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatorThread]:
    with closing(SimulatorThread("vllm", profile=INSTANT)) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def searched(engine: SimulatorThread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config and, in `out`, what a search of one start found."""
    folder = tmp_path_factory.mktemp("capacity")
    (folder / "config.yaml").write_text(
        "version: 1\nmodel: simulated\nbackend: one\n"
        f'backends:\n  one: {{kind: vllm, mode: external, url: "{engine.url}", model: simulated}}\n'
        "bench:\n  prompt_counts: estimated\n  warmup_requests: 0\n"
        "  input_tokens: {min: 20, max: 40}\n  output_tokens: {min: 4, max: 8}\n  slo: {ttft_s: 1.0}\n"
        "  capacity: {probe_s: 0.2, max_probes: 1, start_rps: 50, percentile: 80}\n"
    )
    assert search(folder / "config.yaml", folder / "out") in DONE
    return folder


def search(config: Path, out: Path, *flags: object) -> int:
    return run(["bench", str(config), "--capacity", "--out", str(out), *map(str, flags)])


def test_probes_of_before_are_kept_and_more_starts_may_be_asked_for(searched: Path, capsys) -> None:
    [before] = load_capacity(searched / "out").capacities
    assert search(searched / "config.yaml", searched / "out", "--resume", "--starts", 2) in DONE
    assert "1 probes are kept" in capsys.readouterr().out
    first, second = load_capacity(searched / "out").capacities
    assert first == before
    assert (second.start_index, len(second.probes)) == (1, 1)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("percentile: 80", "percentile: 75", "capacity.percentile was 80.0, now 75.0"),
        ("probe_s: 0.2", "probe_s: 0.3", "capacity.probe_s was 0.2, now 0.3"),
        ("ttft_s: 1.0", "ttft_s: 2.0", "slo.ttft_s was 1.0, now 2.0"),
        ("max: 8}", "max: 9}", "output_tokens.max was 8, now 9"),
        ("bench:", "bench:\n  request_timeout_s: 9.0", "request_timeout_s was 300.0, now 9.0"),
        ("model: simulated}", "model: simulated, options: {connect_timeout_s: 9.0}}", "connect_timeout_s of one was"),
    ],
)
def test_a_search_of_something_else_is_refused_by_its_name(searched: Path, capsys, old, new, told) -> None:
    before = (searched / "out" / "capacity.json").read_bytes()
    other = searched / "other.yaml"
    text = (searched / "config.yaml").read_text()
    assert old in text
    other.write_text(text.replace(old, new))
    assert search(other, searched / "out", "--resume") == REFUSED
    assert told in capsys.readouterr().err
    assert (searched / "out" / "capacity.json").read_bytes() == before
