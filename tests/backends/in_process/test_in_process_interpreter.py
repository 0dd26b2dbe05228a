"""The worker under an interpreter of its own, and what is left when this process is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
import venv
from pathlib import Path

import msgspec
import psutil
import pytest

from enginebay.backends.in_process.interpreter import PackageFolder
from enginebay.backends.worker.process_tree import descendants
from enginebay.errors import EngineDied, StartFailed
from enginebay.types import GenerationRequest, SamplingParams, Text


@pytest.fixture
def empty_venv(tmp_path: Path) -> Path:
    directory = tmp_path / "venv"
    venv.create(directory, symlinks=True, with_pip=False)
    return directory


def test_a_foreign_interpreter_without_msgspec_is_told_what_to_install(make_backend, empty_venv: Path) -> None:
    async def main() -> None:
        with pytest.raises(StartFailed, match=r"lacks the package msgspec: .*/venv/bin/python -m pip install msgspec"):
            await make_backend(venv=str(empty_venv)).start()

    asyncio.run(main())


def test_a_foreign_interpreter_sees_the_two_packages_and_nothing_else_of_ours(make_backend, empty_venv: Path) -> None:
    [site_packages] = empty_venv.glob("lib/python3*/site-packages")
    (site_packages / "msgspec").symlink_to(Path(msgspec.__file__).parent)

    async def main() -> None:
        async with make_backend(venv=str(empty_venv)) as backend:
            effective = backend.info.effective_settings
            assert effective["python"] == str(empty_venv / "bin" / "python")
            path = effective["path"]
            assert isinstance(path, list)
            ours = [entry for entry in path if str(entry).startswith(sys.prefix) and "site-packages" in str(entry)]
            assert not ours
            [folder] = [Path(entry) for entry in path if "enginebay-worker-" in str(entry)]
            assert sorted(entry.name for entry in folder.iterdir()) == ["enginebay", "scripted_engine"]
        assert not folder.exists()

    asyncio.run(main())


def test_a_venv_that_is_none_is_named(make_backend, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StartFailed, match="is no virtual environment"):
            await make_backend(venv=str(tmp_path / "nowhere")).start()

    asyncio.run(main())


def test_a_pythonpath_of_ours_is_kept_from_a_foreign_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere/of/ours")
    folder = PackageFolder([])
    assert "/somewhere" not in folder.environment(is_our_interpreter=False)["PYTHONPATH"]
    assert folder.environment(is_our_interpreter=True)["PYTHONPATH"].endswith(os.pathsep + "/somewhere/of/ours")
    folder.remove()
    folder.remove()


@pytest.mark.parametrize("child", ["child", "hidden"])
def test_nothing_outlives_a_parent_that_was_killed(model_dir: Path, tmp_path: Path, child: str) -> None:
    """The worker, a process that its engine had begun, and the private folder are gone."""
    mark = f"child of {tmp_path.name} {os.getpid()}"
    script = textwrap.dedent(f"""
        import asyncio, sys
        sys.path.insert(0, {str(Path(__file__).parent / "packages")!r})
        from enginebay.backend import BackendContext, LaunchPlan
        from enginebay.backends.in_process.backend import InProcessBackend
        from enginebay.clock import MonotonicClock
        from enginebay.types import Capabilities

        async def main():
            context = BackendContext(
                name="scripted", model={str(model_dir)!r}, options=None, settings={{}}, clock=MonotonicClock()
            )
            backend = InProcessBackend(
                context, kind="scripted", worker="scripted_engine.engine:main", packages=("scripted_engine",),
                capabilities=Capabilities(features=frozenset()),
                plan=LaunchPlan(outcomes=(), keywords={{"on_start": {child!r}, "mark": {mark!r}}}),
            )
            await backend.start()
            print(backend.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _processes_of(worker)
        assert _processes_with(mark)
        assert list(tmp_path.glob("enginebay-worker-*"))
        parent.send_signal(signal.SIGKILL)
    gives_up_at = time.monotonic() + 10
    while _processes_of(worker) or _processes_with(mark) or list(tmp_path.glob("enginebay-worker-*")):
        assert time.monotonic() < gives_up_at, _processes_of(worker)
        time.sleep(0.02)


@pytest.mark.parametrize("prompt", ["say", "block"])
def test_what_left_the_engines_session_ends_with_the_engine(make_backend, tmp_path: Path, prompt: str) -> None:
    """In order, and by force."""
    mark = f"child of {tmp_path.name} {os.getpid()}"

    async def main() -> None:
        backend = make_backend(on_start="hidden", keywords={"mark": mark}, stop_grace_s=0.5)
        await backend.start()
        assert _processes_with(mark)
        chunks = backend.generate(
            GenerationRequest(request_id="r", prompt=Text(prompt), sampling=SamplingParams(max_tokens=2))
        )
        await anext(chunks)
        await backend.aclose()
        await chunks.aclose()
        assert _processes_with(mark) == []

    asyncio.run(main())


def test_what_left_the_engines_session_ends_with_a_worker_that_was_killed(make_backend, tmp_path: Path) -> None:
    mark = f"child of {tmp_path.name} {os.getpid()}"

    async def main() -> None:
        async with make_backend(on_start="hidden", keywords={"mark": mark}) as backend:
            [worker] = descendants(backend.inner.pid)[:1]
            chunks = backend.generate(
                GenerationRequest(request_id="r", prompt=Text("stall"), sampling=SamplingParams(max_tokens=2))
            )
            await anext(chunks)
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(EngineDied, match="SIGKILL"):
                await anext(chunks)
            assert _processes_with(mark) == []

    asyncio.run(main())


def _processes_with(mark: str) -> list[int]:
    """Whose command line has it."""
    return [process.pid for process in psutil.process_iter(["cmdline"]) if mark in str(process.info["cmdline"])]


def _processes_of(group: int) -> list[str]:
    """Command lines of all living processes of a group."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append((process / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
