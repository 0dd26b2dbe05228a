"""The real engine: conformance, its metrics, the settings that it says it runs with, its failures, its end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_vllm_settings import GOLDEN_CONTEXTS, flags_in
from vllm_engine import ASKED, MODEL, STOP_TIMEOUT_S, engine_cores, needs_vllm, owner_command, real_backend, venv

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.backend import Backend
from enginebay.errors import StartFailed
from enginebay.plugins import compile_plan
from enginebay.probes import LIFE_CYCLE_PROBES
from enginebay.probes.probe import LifeCycleProbe
from enginebay.testing import BackendConformance
from enginebay.types import Feature
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_vllm.metrics import METRICS, READ_BY_DERIVED
from enginebay_vllm.plugin import enginebay_backend

pytestmark = [*needs_vllm]

KEY = "only-for-this-test"
WITHOUT_A_START = ("before start it refuses with NotStarted", "health says loading while the engine loads")
WITH_A_START = ("a start that is cancelled leaves nothing", "an engine that is killed gives a typed error")
"""Every start takes most of a minute: the others are run on the simulator, through the same launcher."""


def chosen(*names: str) -> Any:
    probes = [probe for probe in LIFE_CYCLE_PROBES if probe.name in names]
    assert len(probes) == len(names)
    return pytest.mark.parametrize("probe", probes, ids=lambda probe: probe.name)


async def kill_newest_core() -> None:
    engine_cores()[-1].kill()


class TestManagedVllm(BackendConformance):
    time_limit_factor = 3.0

    def make_backend(self) -> Backend:
        return real_backend("managed", dev_mode=True, api_key=KEY)

    def make_loading_backend(self) -> Backend:
        return self.make_backend()

    async def kill_engine(self, backend: Backend) -> None:
        await kill_newest_core()

    @chosen(*WITHOUT_A_START, *WITH_A_START)
    def test_life_cycle(self, probe: LifeCycleProbe) -> None:
        super().test_life_cycle(probe)

    def test_it_runs_with_what_was_asked(self) -> None:
        info = self._started().backend.info
        told = {name: info.effective_settings.get(name) for name in ASKED}
        assert told == dict(ASKED)
        assert (info.engine_version, info.max_model_len, info.simulated) == ("0.32.0", 2048, False)
        assert info.effective_settings["device"] == "cpu"
        assert info.effective_settings["served_model_name"] == MODEL

    def test_what_was_found_corrects_what_was_declared(self) -> None:
        features = self._started().backend.info.capabilities.features
        assert {Feature.RESET_PREFIX_CACHE, Feature.COUNT_TOKENS} <= features
        assert not {Feature.PRIORITY, Feature.TOOLS, Feature.ADAPTER} & features

    def test_the_live_metrics_have_every_series(self) -> None:
        metrics = parse_metrics(_read(f"{self._url()}/metrics"))
        assert METRICS.missing(metrics) == []
        assert all(series in metrics for series in (*READ_BY_DERIVED, *METRICS.extra))

    def test_the_plans_command_line_is_the_one_that_runs(self) -> None:
        plan = compile_plan(enginebay_backend(), real_context(port=int(self._url().rpartition(":")[2])))
        running = [process.cmdline() for process in psutil.Process().children(recursive=True)]
        arguments = list(plan.command[1:])
        assert any(line[-len(arguments) :] == arguments for line in running), f"{arguments} runs nowhere"

    def test_the_key_guards_the_server_and_stands_on_no_command_line(self) -> None:
        url = self._url()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            _read(f"{url}/v1/models")
        lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
        assert lines
        assert not any(KEY in line for line in lines)

    def test_another_backend_attaches_to_the_server_that_runs(self) -> None:
        url = self._url()

        async def main() -> str:
            attached = get_backend("vllm", model=MODEL, mode="external", url=f"{url}/v1", options={"api_key": KEY})
            async with attached as backend:
                sampling = SamplingParams(max_tokens=4, temperature=0.0)
                request = GenerationRequest(
                    request_id="attached", prompt=Text("The capital of France"), sampling=sampling
                )
                text = "".join([chunk.text async for chunk in backend.generate(request)])
                assert backend.info.effective_settings["max_num_seqs"] == ASKED["max_num_seqs"]
                return text

        assert "Paris" in asyncio.run(main())

    def _url(self) -> str:
        inner: Any = self._started().backend.inner
        return inner._url


class TestInProcessVllm(BackendConformance):
    time_limit_factor = 3.0

    def make_backend(self) -> Backend:
        return real_backend("in_process")

    def make_loading_backend(self) -> Backend:
        return self.make_backend()

    async def kill_engine(self, backend: Backend) -> None:
        await kill_newest_core()

    @chosen(*WITHOUT_A_START, "an engine that is killed gives a typed error")
    def test_life_cycle(self, probe: LifeCycleProbe) -> None:
        super().test_life_cycle(probe)

    def test_it_runs_with_what_was_asked(self) -> None:
        info = self._started().backend.info
        assert {name: info.effective_settings.get(name) for name in ASKED} == dict(ASKED)
        assert (info.engine_version, info.max_model_len, info.simulated) == ("0.32.0", 2048, False)


# ---------------------------------------------------------------- failures and ends


def start_failure(mode: str, **keywords: Any) -> StartFailed:
    async def main() -> StartFailed:
        backend = real_backend(mode, **keywords)
        with pytest.raises(StartFailed) as failure:
            await backend.start()
        await backend.aclose()
        return failure.value

    return asyncio.run(main())


def test_a_bad_flag_is_told_with_the_engines_words() -> None:
    error = start_failure("managed", extra_arguments=("--no-such-flag",))
    assert any("--no-such-flag" in line for line in error.log_tail)
    assert error.likely_cause


def test_a_context_beyond_the_models_is_told_with_the_engines_words() -> None:
    error = start_failure("managed", settings={"max_model_len": 100_000})
    assert "100000" in str(error)
    assert error.likely_cause


def test_a_cache_beyond_the_memory_is_told_in_process() -> None:
    error = start_failure("in_process", cpu_kv_cache_gib=100_000)
    assert error.log_tail
    assert "memory" in str(error)


@pytest.mark.parametrize("mode", ["managed", "in_process"])
def test_kill_9_of_the_owner_leaves_no_process(mode: str) -> None:
    """Killed while the engine core loads: then most is in motion. First it is asked to end, then it is made to."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(owner_command(mode), env=environment, stdout=subprocess.PIPE) as owner:
        family = _family_with_a_core(owner.pid)
        owner.kill()
    assert living(family, timeout_s=STOP_TIMEOUT_S + 30.0) == []


def living(family: list[psutil.Process], *, timeout_s: float) -> list[psutil.Process]:
    """Those that still run; a zombie does not, however long its new parent takes to look at it."""
    gives_up_at = time.monotonic() + timeout_s
    while alive := [member for member in family if _is_living(member)]:
        if time.monotonic() > gives_up_at:
            break
        psutil.wait_procs(alive, timeout=0.2)
    return alive


def _is_living(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family_with_a_core(owner: int) -> list[psutil.Process]:
    """All descendants, once an engine core is among them."""
    while not any(core in psutil.Process(owner).children(recursive=True) for core in engine_cores()):
        assert psutil.Process(owner).status() != psutil.STATUS_ZOMBIE, "the owner ended by itself"
    return psutil.Process(owner).children(recursive=True)


def test_every_flag_that_we_know_is_one_of_the_engines_own() -> None:
    told = subprocess.run([venv() / "bin/vllm", "serve", "--help=all"], capture_output=True, text=True, check=True)
    for golden in GOLDEN_CONTEXTS.values():
        if golden.mode != "docker":
            flags = set(flags_in(compile_plan(enginebay_backend(), golden).command))
            assert {flag for flag in flags if f"{flag.replace('--no-', '--')}" not in told.stdout} == set()


def real_context(*, port: int) -> Any:
    backend: Any = real_backend("managed", dev_mode=True, api_key=KEY, port=port)
    return backend.inner._context


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode("utf-8")
