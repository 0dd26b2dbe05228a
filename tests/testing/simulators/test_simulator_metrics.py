"""The metrics of all simulators, read by what reads metrics: prometheus_client, promtool, a real Prometheus."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.clock import MonotonicClock
from enginebay.errors import BackendNotFound, BackendUnavailable
from enginebay.quantities import SIMULATED_METRIC
from enginebay.testing.simulators import Simulator, find_wire, simulated_kinds
from enginebay.wire.http_client import HttpClient

SWITCHED_ON_BY = {"sglang": ["--enable-metrics"], "llama_cpp": ["--metrics"]}
OPTIONS_OF = {"tensorrt_llm": "return_perf_metrics: true\nenable_iter_perf_stats: true\n"}
"""Where the engine has its metrics switched on by a file of options, given with --extra_llm_api_options."""
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def run(main):
    return asyncio.run(asyncio.wait_for(main(), 60))


def simulator_of(kind: str, folder: Path) -> Simulator:
    arguments = list(SWITCHED_ON_BY.get(kind, ()))
    if kind in OPTIONS_OF:
        file = folder / f"{kind}.yaml"
        file.write_text(OPTIONS_OF[kind])
        arguments += ["some/model", "--extra_llm_api_options", str(file)]
    return Simulator(kind, arguments, port=0)


async def used(simulator: Simulator) -> None:
    """Give it some work through its adapter, where that is installed: some engines publish only what has happened."""
    try:
        backend = get_backend(simulator.spec.kind, mode="external", url=simulator.url, model=simulator.model)
    except BackendNotFound:
        return
    async with backend:
        for index in range(3):
            sampling = SamplingParams(max_tokens=5, temperature=0.0, top_p=0.9)
            request = GenerationRequest(request_id=f"r{index}", prompt=Text("the quick fox"), sampling=sampling)
            assert [chunk async for chunk in backend.generate(request)][-1].finish_reason is not None


async def metrics_text(simulator: Simulator) -> str:
    client = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        answer = await client.request("GET", simulator.spec.metrics_path)
    finally:
        await client.aclose()
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.body.decode()


def text_after_use(kind: str, folder: Path) -> str:
    async def main() -> str:
        async with simulator_of(kind, folder) as simulator:
            await used(simulator)
            return await metrics_text(simulator)

    return run(main)


@pytest.mark.parametrize("kind", simulated_kinds())
def test_the_python_client_reads_the_metrics_and_their_label(kind, tmp_path):
    text = text_after_use(kind, tmp_path)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families[SIMULATED_METRIC].samples[0].value == 1
    assert len(families) > 1
    assert text.endswith("\n")


@pytest.mark.prometheus
@needs_promtool
@pytest.mark.parametrize("kind", simulated_kinds())
def test_promtool_parses_the_metrics(kind, tmp_path):
    text = text_after_use(kind, tmp_path)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # 3: names against its conventions, which are the engines' own; 1: it cannot be parsed
    assert checked.returncode in (0, 3), checked.stderr
    assert "pars" not in checked.stderr


@pytest.mark.prometheus
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_scrapes_all_simulators_and_knows_that_they_are():
    async def main() -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            simulators = [await stack.enter_async_context(simulator_of(kind, folder)) for kind in simulated_kinds()]
            for simulator in simulators:
                await used(simulator)
            client = await stack.enter_async_context(Prometheus(folder, simulators))
            found = await _until_scraped(client, len(simulators))
            assert found == {simulator.spec.kind: "1" for simulator in simulators}

    run(main)


class Prometheus:
    """A Prometheus with its data in this folder; gives a client of it."""

    def __init__(self, folder: Path, simulators: list[Simulator]) -> None:
        self._folder = folder
        jobs = [
            f"  - job_name: {simulator.spec.kind}\n    metrics_path: {simulator.spec.metrics_path}\n"
            f"    static_configs: [{{targets: ['127.0.0.1:{simulator.port}']}}]\n"
            for simulator in simulators
        ]
        config = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n" + "".join(jobs)
        (folder / "prometheus.yml").write_text(config)

    async def __aenter__(self) -> HttpClient:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [
            "prometheus", f"--config.file={self._folder}/prometheus.yml", f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ]  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(*command)
        self._client = HttpClient(f"http://127.0.0.1:{port}", clock=MonotonicClock())
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        self._process.terminate()
        await self._process.wait()


async def _until_scraped(client: HttpClient, num_targets: int) -> dict[str, str]:
    found: dict[str, str] = {}
    while len(found) < num_targets:
        await asyncio.sleep(0.2)
        try:
            answer = await client.request("GET", f"/api/v1/query?query={SIMULATED_METRIC}")
        except BackendUnavailable:
            continue  # it has not begun to listen
        if answer.status == 200:
            result = msgspec.json.decode(answer.body)["data"]["result"]
            found = {series["metric"]["job"]: series["value"][1] for series in result}
    return found


def test_every_wire_names_a_path_of_its_metrics():
    for kind in simulated_kinds():
        assert find_wire(kind).metrics_path.startswith("/")
