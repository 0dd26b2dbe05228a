"""What the commands ask of the system, and what they do on one that does not have it."""

import asyncio
import subprocess
import sys

import pytest

import enginebay.cli.parent as parent
from enginebay.cli.event_loop import new_event_loop
from enginebay.errors import ConfigError

ORPHAN = """
import signal
import enginebay.cli.parent as parent
parent._asked_kernel = lambda: False
parent.WATCH_INTERVAL_S = 0.01
parent.die_with_parent()
print("watching", flush=True)
signal.pause()
"""
PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {ORPHAN!r}])
sys.stdin.read()
"""


def test_where_the_kernel_does_not_tell_of_the_parents_death_a_thread_looks_for_it() -> None:
    """The pipe ends only when the orphan, the last to hold it, is gone."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    process.kill()
    assert process.stdout.read() == ""
    process.communicate()


def test_a_system_without_posix_is_told_to_leave_the_option_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent.os, "name", "nt")
    with pytest.raises(ConfigError, match="leave it out"):
        parent.die_with_parent()


def test_commands_run_on_the_loop_of_python_where_uvloop_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    loop.close()
    assert type(loop).__module__.startswith("asyncio")


def test_serve_and_bench_import_without_uvloop() -> None:
    script = "import sys; sys.modules['uvloop'] = None; import enginebay.cli.serve, enginebay.cli.bench.command"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_loop_is_uvloops_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    loop = new_event_loop()
    loop.close()
    assert type(loop).__module__.startswith("uvloop")
    assert isinstance(loop, asyncio.AbstractEventLoop)
