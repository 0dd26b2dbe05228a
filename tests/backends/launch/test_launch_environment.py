"""What a launched engine, and a worker process, sees of our environment."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from launch_fakes import context_with, script, server_of

from enginebay.backend import BackendContext
from enginebay.backends.launch.environment import INHERITED, inherited_environment
from enginebay.backends.worker.process import WorkerProcess
from enginebay.errors import StartFailed

OURS = {
    "OPENAI_API_KEY": "sk-ours",
    "HF_TOKEN": "hf_ours",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "CUDA_LICENSE_KEY": "below an allowed prefix",
    "HTTPS_PROXY": "http://user:word@proxy:3128",
    "all_proxy": "socks5://token@proxy:1080",
    "PYTHONPATH": "/ours",
    "DATABASE_URL": "postgres://u:p@h/d",
    "CUDA_VISIBLE_DEVICES": "1",
    "OMP_NUM_THREADS": "4",
    "LC_ALL": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "http_proxy": "http://proxy:3128",
}
HANDED_ON = {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LC_ALL", "HF_HUB_OFFLINE", "http_proxy"}


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)


def seen_by_the_engine(context: BackendContext, **secrets: str) -> dict[str, str]:
    """Read from the raw log: what is shown of it is masked."""

    async def main() -> None:
        server = server_of(script("say_environment"), context=context, environment=secrets)
        await server.launch()
        await server.wait_ended()
        await server.stop()

    asyncio.run(main())
    return dict(line.split("=", 1) for line in Path(context.options.log_file).read_text().splitlines())


def test_no_secret_of_ours_is_in_the_engines_environment(tmp_path: Path):
    seen = seen_by_the_engine(context_with(log_file=str(tmp_path / "log")))
    assert OURS.keys() & seen.keys() == HANDED_ON
    assert seen["PATH"] == os.environ["PATH"]
    assert {name for name in seen if name not in INHERITED} <= {
        *HANDED_ON,
        *(name for name in os.environ if name.startswith(("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "HF_HUB_"))),
        *("PYTHONUNBUFFERED", "ENGINEBAY_LAUNCH"),
    }


def test_a_secret_of_the_entry_and_the_engines_own_are(tmp_path: Path):
    context = context_with(environment={"HF_TOKEN": "hf_entry", "OMP_NUM_THREADS": "1"}, log_file=str(tmp_path / "log"))
    seen = seen_by_the_engine(context, ENGINE_API_KEY="k-1")
    assert (seen["HF_TOKEN"], seen["OMP_NUM_THREADS"], seen["ENGINE_API_KEY"]) == ("hf_entry", "1", "k-1")


def test_a_virtual_environment_is_as_if_activated(tmp_path: Path):
    bin_directory = tmp_path / "venv" / "bin"
    bin_directory.mkdir(parents=True)
    program = bin_directory / "engine"
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o755)
    context = context_with(venv=str(tmp_path / "venv"), log_file=str(tmp_path / "log"))

    async def main() -> None:
        server = server_of(("engine",), context=context)
        await server.launch()
        await server.wait_ended()
        await server.stop()

    asyncio.run(main())
    seen = dict(line.split("=", 1) for line in (tmp_path / "log").read_text().splitlines() if "=" in line)
    assert seen["VIRTUAL_ENV"] == str(tmp_path / "venv")
    assert seen["PATH"].split(os.pathsep)[0] == str(bin_directory)


def failed_start(command: tuple[str, ...], venv: str | None, *, install: str | None = None) -> str:
    server = server_of(command, context=context_with(venv=venv), install=install)
    with pytest.raises(StartFailed) as failed:
        asyncio.run(server.launch())
    return str(failed.value)


def test_a_venv_or_program_that_is_not_there_is_told_with_what_to_do(tmp_path: Path):
    said = failed_start(("vllm",), "/no/such/venv", install="pip install vllm==0.32.0")
    assert "the virtual environment /no/such/venv does not exist" in said
    assert "python -m venv /no/such/venv && /no/such/venv/bin/pip install vllm==0.32.0" in said
    (tmp_path / "bin").mkdir()
    said = failed_start(("sh",), str(tmp_path), install="pip install engine")  # one on the path is another engine
    assert f"there is no program 'sh' in {tmp_path}/bin" in said
    assert f"the engine is not installed: {tmp_path}/bin/pip install engine" in said
    said = failed_start(("no-such-engine",), None)
    assert "there is no program 'no-such-engine' on the path" in said
    assert "there is no program '/no/such/program' there" in failed_start(("/no/such/program",), None)
    script = tmp_path / "engine.sh"
    script.touch(mode=0o644)
    assert f"{script} cannot be executed\nlikely cause: chmod +x {script}" in failed_start((str(script),), None)


def test_a_worker_process_inherits_what_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]]))

    def seen(inherited: dict[str, str] | None) -> str:
        ended = asyncio.Event()
        log_file = tmp_path / f"log-{inherited is None}"
        process = WorkerProcess(
            "environment_worker:say_environment",
            name="worker",
            on_frame=lambda frame: None,
            on_ended=ended.set,
            inherited=inherited,
            environment={"PYTHONPATH": os.environ["PYTHONPATH"]},
            log_file=log_file,
        )

        async def main() -> None:
            await process.launch()
            await ended.wait()

        asyncio.run(main())
        return log_file.read_text()

    assert "HF_TOKEN=hf_ours" in seen(None)
    text = seen(inherited_environment(os.environ))
    assert "HF_TOKEN" not in text
    assert "CUDA_VISIBLE_DEVICES=1" in text
