"""docs/workloads.md: each of its configs loads and makes a plan, and it names every key that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from workload_tokenizer import byte_level_tokenizer

from enginebay.config import bench_arrivals, bench_workloads
from enginebay.config.loader import parse_config
from enginebay.configured import check_backend
from enginebay.loadtest.from_config import all_ignore_eos, loads_from_config, plan_from_config
from enginebay.loadtest.plan import Load, Plan
from enginebay.loadtest.tokenizer import FileTokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text()
CONFIGS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> FileTokenizer:
    return byte_level_tokenizer(tmp_path_factory.mktemp("model"), adds_bos=False)


@pytest.fixture
def files(tmp_path, monkeypatch) -> None:
    """What the page's configs name, in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    turns = [{"from": "human", "value": "How deep is the harbour"}, {"from": "gpt", "value": "Nine metres."}]
    Path("conversations.json").write_text(json.dumps([{"conversations": turns}] * 20))
    Path("tickets.csv").write_text("question,reply\n" + "What now,Wait\n" * 10)
    lines = [
        {"timestamp": 100 * n, "input_length": 150 + n, "output_length": 5, "hash_ids": [1, 2, n + 10]}
        for n in range(9)
    ]
    Path("traffic.jsonl").write_text("\n".join(map(json.dumps, lines)))


def plan_of(config: str, tokenizer: FileTokenizer) -> Plan:
    settings = parse_config(config, environment={}).bench
    return plan_from_config(settings, model="m", tokenizer=tokenizer, ignore_eos=True)


@pytest.mark.parametrize("config", CONFIGS, ids=[" ".join(config.split()[3:8]) for config in CONFIGS])
@pytest.mark.usefixtures("files")
def test_each_config_of_the_page_makes_a_plan(config: str, tokenizer: FileTokenizer) -> None:
    plan = plan_of(config, tokenizer)
    assert plan.loads
    for load in plan.loads:
        assert load.requests
        assert all(request.num_prompt_tokens > 0 for request in load.requests)
        assert load.load.is_closed == all(request.offset_s is None for request in load.requests)


@pytest.mark.parametrize("module", [bench_workloads, bench_arrivals])
def test_every_key_of_workloads_and_arrivals_stands_on_the_page(module) -> None:
    named = [model for name, model in vars(module).items() if name.endswith(("Config", "Arrivals", "ThinkTime"))]
    models = [model for model in named if isinstance(model, type)]
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    kinds = {value for model in models if "kind" in model.model_fields
             for value in get_args(model.model_fields["kind"].annotation)}  # fmt: skip
    assert kinds & {"ramp", "sharegpt"}
    assert fields.keys() & {"prefix_tokens", "speeds"}
    assert not [name for name in fields.keys() | kinds if not re.search(rf"\b{name}\b", PAGE)]


def loads(bench: str) -> tuple[Load, ...]:
    return loads_from_config(parse_config(f"version: 1\nbench: {bench}", environment={}).bench)


@pytest.mark.parametrize(
    ("bench", "expected"),
    [
        ("{}", [Load(users=1)]),
        ("{users: [1, 8]}", [Load(users=1), Load(users=8)]),
        ("{rate_rps: [2]}", [Load(rate=2.0, arrivals="poisson")]),
        ("{rate_rps: [2], arrivals: constant}", [Load(rate=2.0, arrivals="constant")]),
        (
            "{rate_rps: [2.0, 3.0], arrivals: {kind: gamma, burstiness: 0.5}}",
            [Load(rate=rate, arrivals="gamma", burstiness=0.5) for rate in (2.0, 3.0)],
        ),
        (
            "{arrivals: {kind: ramp, from_rps: 1, to_rps: 9, duration_s: 4}}",
            [Load(arrivals="ramp", rate=1.0, end_rate=9.0, duration_s=4.0)],
        ),
        (
            "{arrivals: {kind: sweep, from_rps: 1, to_rps: 3, num_rates: 3, process: constant}}",
            [Load(rate=rate, arrivals="constant") for rate in (1.0, 2.0, 3.0)],
        ),
    ],
)
def test_arrivals_of_a_config_become_one_load_for_each_level(bench: str, expected: list[Load]) -> None:
    assert list(loads(bench)) == expected


@pytest.mark.usefixtures("files")
def test_a_trace_drives_other_workloads_and_its_lengths_other_arrivals(tokenizer: FileTokenizer) -> None:
    trace = "{kind: trace, path: traffic.jsonl}"
    instants = plan_of(f"version: 1\nbench: {{arrivals: {trace}, input_tokens: 20}}", tokenizer).loads[0].requests
    assert [request.offset_s for request in instants] == pytest.approx([0.1 * n for n in range(9)])
    assert {request.num_prompt_tokens for request in instants} == {20}
    lengths = plan_of(f"version: 1\nbench: {{workload: {trace}, users: [3]}}", tokenizer).loads[0].requests
    assert [request.num_prompt_tokens for request in lengths] == [150 + n for n in range(9)]


def test_auto_lets_outputs_be_exact_only_where_every_backend_can(tokenizer: FileTokenizer) -> None:
    for given, can, expected in (
        ("auto", True, True),
        ("auto", False, False),
        ("true", False, True),
        ("false", True, False),
    ):
        settings = parse_config(f"version: 1\nbench: {{ignore_eos: {given}, num_requests: 2}}", environment={}).bench
        plan = plan_from_config(settings, model="m", tokenizer=tokenizer, ignore_eos=can)
        assert {request.sampling.ignore_eos for request in plan.loads[0].requests} == {expected}
        assert ("exact output lengths" in plan.workload) == expected


def test_a_backend_counts_as_able_to_ignore_the_end_only_if_that_is_known_before_it_is_asked() -> None:
    config = parse_config(
        """
        version: 1
        backends:
          ours: {kind: reference}
          unknown: {kind: openai_http, url: "http://127.0.0.1:9"}
          told: {kind: openai_http, url: "http://127.0.0.1:9", options: {dialect: enginebay}}
          plain: {kind: openai_http, url: "http://127.0.0.1:9", options: {dialect: openai}}
        """,
        environment={},
    )
    able = {name: all_ignore_eos([check_backend(config, name)]) for name in config.backends}
    assert able == {"ours": True, "unknown": False, "told": True, "plain": False}
    assert not all_ignore_eos([check_backend(config, name) for name in ("ours", "plain")])
