"""Arrivals that a trace brings along: how its file is read, and that no more prompts are written than arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from workload_tokenizer import byte_level_tokenizer

from enginebay.config.bench import BenchConfig
from enginebay.config.loader import parse_config
from enginebay.errors import ConfigError, LoadTestError
from enginebay.loadtest.config_traces import ConfigTraces
from enginebay.loadtest.from_config import plan_from_config
from enginebay.loadtest.plan import Load, Plan, Step
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.traces import read_trace
from enginebay.loadtest.workloads import Quantity, make_plan
from enginebay.loadtest.workloads.question import Desk, OpenWorkload, Session, Traffic
from enginebay.types import SamplingParams

BLOCKS_OF_48 = [
    {
        "timestamp": 250 * n,
        "input_length": 48 * num,
        "output_length": 5,
        "hash_ids": [1, *range(10 * n, 10 * n + num - 1)],
    }
    for n, num in enumerate((3, 10, 3, 7))
]
"""48 is no size that anybody would try."""
CSV = "Timestamp,Request tokens,Response tokens\n5,40,3\n7,41,4\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> FileTokenizer:
    return byte_level_tokenizer(tmp_path_factory.mktemp("model"), adds_bos=False)


@pytest.fixture
def traces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("traffic.jsonl").write_text("\n".join(map(json.dumps, BLOCKS_OF_48)))
    Path("traffic.csv").write_text(CSV)


def bench(text: str) -> BenchConfig:
    return parse_config(f"version: 1\nbench: {text}", environment={}).bench


@pytest.mark.usefixtures("traces")
def test_the_size_of_blocks_can_be_told_of_arrivals_as_of_a_workload(tokenizer: FileTokenizer) -> None:
    with pytest.raises(LoadTestError, match="give the size as block_tokens"):
        _ = ConfigTraces(bench("{arrivals: {kind: trace, path: traffic.jsonl}}")).of_arrivals
    told = bench("{arrivals: {kind: trace, path: traffic.jsonl, block_tokens: 48}, input_tokens: 20}")
    assert ConfigTraces(told).of_arrivals.block_tokens == 48
    requests = plan_from_config(told, model="m", tokenizer=tokenizer, ignore_eos=True).loads[0].requests
    assert [request.offset_s for request in requests] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.usefixtures("traces")
def test_the_format_of_arrivals_can_be_told(tokenizer: FileTokenizer) -> None:
    assert ConfigTraces(
        bench("{arrivals: {kind: trace, path: traffic.csv, format: burstgpt}}")
    ).of_arrivals.offsets == [0.0, 2.0]
    with pytest.raises(LoadTestError, match="is no LLM inference trace of Azure"):
        _ = ConfigTraces(bench("{arrivals: {kind: trace, path: traffic.csv, format: azure}}")).of_arrivals


@pytest.mark.parametrize("key", ["block_tokens: 16", "format: mooncake"])
def test_a_setting_of_a_file_is_refused_where_the_workload_names_the_file(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key.partition(':')[0]} goes with path"):
        bench(f"{{workload: {{kind: trace, path: traffic.jsonl}}, arrivals: {{kind: trace, {key}}}}}")


@pytest.mark.usefixtures("traces")
def test_blocks_are_refused_of_a_format_that_has_none() -> None:
    with pytest.raises(LoadTestError, match="a trace of burstgpt has no blocks"):
        read_trace(Path("traffic.csv"), block_tokens=16)


# ---------------------------------------------------------------- no more prompts than arrivals


@dataclass
class Counted:
    """A workload of `num_prompts` that counts those that were written."""

    num_prompts: int = 1000
    written: list[int] = field(default_factory=list)

    def open(self, desk: Desk, *, seed: int) -> OpenWorkload:
        return OpenCounted(self, desk)


@dataclass
class OpenCounted:
    workload: Counted
    desk: Desk

    def traffic(self) -> Traffic:
        return Traffic(warmup=iter(()), sessions=self._sessions())

    def _sessions(self) -> Iterator[Session]:
        for number in range(self.workload.num_prompts):
            self.workload.written.append(number)
            yield (self.desk.write(12, max_tokens=4),)


def plan_of(workload: Counted, load: Load, tokenizer: FileTokenizer, *, num_requests: int | None) -> Plan:
    quantity = Quantity(num_requests=num_requests, trace_offsets=[0.0, 0.5, 0.75])
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    return make_plan(workload, (load,), quantity=quantity, model="m", sampling=sampling, seed=3, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "load",
    [Load(arrivals="trace", trace="some.jsonl"), Load(arrivals="steps", steps=(Step(rate=2.0, duration_s=2.0),))],
    ids=str,
)
def test_no_prompt_is_written_that_never_arrives(load: Load, tokenizer: FileTokenizer) -> None:
    workload = Counted()
    requests = plan_of(workload, load, tokenizer, num_requests=100).loads[0].requests
    assert 0 < len(requests) < 20
    assert len(workload.written) == len(requests)


def test_a_workload_may_have_fewer_prompts_than_requests_are_allowed_if_all_arrivals_have_one(
    tokenizer: FileTokenizer,
) -> None:
    load = Load(arrivals="trace", trace="some.jsonl")
    assert len(plan_of(Counted(num_prompts=3), load, tokenizer, num_requests=100).loads[0].requests) == 3


@pytest.mark.parametrize("num_requests", [None, 3, 100])
def test_more_arrivals_than_prompts_are_told(num_requests: int | None, tokenizer: FileTokenizer) -> None:
    load = Load(arrivals="trace", trace="some.jsonl")
    with pytest.raises(LoadTestError, match="3 requests arrive, and the workload has 2"):
        plan_of(Counted(num_prompts=2), load, tokenizer, num_requests=num_requests)
