from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from enginebay.errors import DownloadFailed, ModelError
from enginebay.models.cache import ModelCache
from enginebay.models.conversion import CONVERSION_RECORD, Conversion, converted_model, find_converted
from enginebay.models.conversion_tool import run_tool
from enginebay.models.progress import PullProgress, ignore_progress


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "a model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def conversion(source: Path, *, variant: str = "fp16", **tools: str) -> Conversion:
    return Conversion(source=source, target="other", variant=variant, tools=tools or {"tool": "1"})


class _Convert:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, directory: Path) -> None:
        self.num_calls += 1
        (directory / "model.bin").write_text(f"converted {self.num_calls}")


def test_a_model_is_converted_once_for_each_source_variant_and_version(cache: ModelCache, source: Path) -> None:
    convert = _Convert()

    def make(wanted: Conversion) -> Path:
        return converted_model(wanted, convert, progress=ignore_progress, cache=cache)

    first = make(conversion(source))
    assert first == make(conversion(source))
    assert convert.num_calls == 1
    assert (first / "model.bin").read_text() == "converted 1"
    assert '"variant": "fp16"' in (first / CONVERSION_RECORD).read_text()
    directories = {first, make(conversion(source, variant="int8")), make(conversion(source, tool="2"))}
    (source / "model.safetensors").write_bytes(b"other weights")
    directories.add(make(conversion(source)))
    assert len(directories) == convert.num_calls == 4


def test_a_damaged_conversion_is_made_again(cache: ModelCache, source: Path) -> None:
    convert = _Convert()
    first = converted_model(conversion(source), convert, progress=ignore_progress, cache=cache)
    (first / "model.bin").unlink()
    assert find_converted(conversion(source), cache=cache) is None
    assert converted_model(conversion(source), convert, progress=ignore_progress, cache=cache) == first
    assert (first / "model.bin").read_text() == "converted 2"


def test_without_the_tool_the_newest_conversion_of_the_same_weights_is_found(cache: ModelCache, source: Path) -> None:
    unknown = Conversion(source=source, target="other", variant="fp16", tools={})
    assert find_converted(unknown, cache=cache) is None
    for version in ("1", "2"):
        newest = converted_model(conversion(source, tool=version), _Convert(), progress=ignore_progress, cache=cache)
    converted_model(conversion(source, variant="int8"), _Convert(), progress=ignore_progress, cache=cache)
    assert find_converted(unknown, cache=cache) == newest


@pytest.mark.parametrize("error", [ModelError("no such layer"), KeyboardInterrupt()])
def test_nothing_stays_of_a_conversion_that_was_broken_off(
    cache: ModelCache, source: Path, error: BaseException
) -> None:
    def break_off(directory: Path) -> None:
        (directory / "half").touch()
        raise error

    with pytest.raises(type(error)):
        converted_model(conversion(source), break_off, progress=ignore_progress, cache=cache)
    assert list((cache.root / "models").iterdir()) == []


# ---------------------------------------------------------------- the tool


def _script(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def test_lines_and_redrawn_bars_are_read_as_they_come() -> None:
    lines: list[str] = []
    script = _script(r"""
        import sys
        sys.stderr.write("bar  1/2\rbar  2/2\n")
        sys.stdout.write("\n\nlast, without an end: ä")
    """)
    run_tool(script, environment=os.environ, on_line=lines.append, on_wait=lambda: None)
    assert sorted(lines) == ["bar  1/2", "bar  2/2", "last, without an end: ä"]


def test_a_tool_that_fails_is_quoted() -> None:
    with pytest.raises(ModelError, match=r"(?s)ended with exit code 3; its last lines:\n  the layer is unknown"):
        run_tool(
            _script("import sys; print('the layer is unknown'); sys.exit(3)"),
            environment=os.environ,
            on_line=lambda line: None,
            on_wait=lambda: None,
        )
    with pytest.raises(ModelError, match="cannot run /nowhere/tool"):
        run_tool(["/nowhere/tool"], environment={}, on_line=lambda line: None, on_wait=lambda: None)


def test_a_tool_ends_with_its_children_when_nobody_waits_for_it() -> None:
    """What `on_wait` raises, a closed backend's error or Ctrl-C, ends it at once."""
    processes: list[int] = []
    script = _script("""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """)

    def stop_when_told() -> None:
        if processes:
            raise DownloadFailed("closed")

    began_at = time.monotonic()
    with pytest.raises(DownloadFailed):
        run_tool(
            script,
            environment=os.environ,
            on_line=lambda line: processes.append(int(line)),
            on_wait=stop_when_told,
        )
    assert time.monotonic() - began_at < 60
    gives_up_at = time.monotonic() + 10
    while _is_running(processes[0]):
        assert time.monotonic() < gives_up_at
        time.sleep(0.01)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_conversion_leaves_no_model_and_the_next_one_cleans_up(tmp_path: Path, source: Path) -> None:
    script = _script(f"""
        import sys, time
        from pathlib import Path
        from enginebay.models.cache import ModelCache
        from enginebay.models.conversion import Conversion, converted_model
        def convert(directory):
            (directory / "half").touch()
            print("begun", flush=True)
            time.sleep(600)
        wanted = Conversion(source=Path({str(source)!r}), target="other", variant="fp16", tools={{"tool": "1"}})
        converted_model(wanted, convert, progress=print, cache=ModelCache(Path({str(tmp_path / "cache")!r})))
    """)
    with subprocess.Popen(script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGKILL)
    cache = ModelCache(tmp_path / "cache")
    assert find_converted(conversion(source), cache=cache) is None
    told: list[PullProgress] = []
    made = converted_model(conversion(source), _Convert(), progress=told.append, cache=cache)
    assert [path.name for path in (cache.root / "models").iterdir()] == [made.name]
    assert told == []
