import json

import msgspec
import pytest
from rich.console import Console

from enginebay.cli.bench import self_checking
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.self_check.ceiling import ClientCeiling


def ceiling(environment: Environment) -> ClientCeiling:
    return ClientCeiling(
        requests_per_s=2345.0,
        burst_requests_per_s=6789.0,
        chunks_per_s=70_000.0,
        num_streams=512,
        stream_tokens_per_s=20.0,
        max_stamp_error_s=0.005,
        num_users=64,
        num_tokens=16,
        ttft_error_p50_s=0.0001,
        ttft_error_p99_s=0.00123,
        timing_requests_per_s=100.0,
        offset_error_p50_s=0.0002,
        offset_error_p99_s=0.00145,
        offset_requests_per_s=500.0,
        num_wrong_token_counts=0,
        server_requests_per_s=20_000.0,
        environment=environment,
        measured_at="2026-11-22T12:00:00+00:00",
    )


@pytest.mark.parametrize(
    ("changes", "exit_code", "words"),
    [
        ({}, 0, "2,345"),
        ({"server_requests_per_s": 7000.0}, 0, "was no faster"),
        ({"num_wrong_token_counts": 3}, 1, "3 answers were counted wrong"),
    ],
)
def test_the_self_check_prints_its_figures_and_keeps_them_in_the_cache(
    tmp_path, monkeypatch, changes: dict[str, float], exit_code: int, words: str
) -> None:
    async def check_client(*, environment, seconds, on_step) -> ClientCeiling:
        on_step("something")
        return msgspec.structs.replace(ceiling(environment), **changes)

    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path))
    monkeypatch.setattr(self_checking, "check_client", check_client)
    with (tmp_path / "printed").open("w") as file:
        console = Console(record=True, width=120, file=file)
        assert self_checking.self_check(console) == exit_code
    printed = console.export_text()
    assert words in printed
    for figure in ("2,345", "6,789", "70,000", "512", "1.23 ms", "1.45 ms", "... something"):
        assert figure in printed
    path = tmp_path / "client-ceiling.json"
    if exit_code == 0:
        assert json.loads(path.read_text())["requests_per_s"] == 2345.0
    else:
        assert not path.exists(), "nobody is held to what cannot be trusted"
