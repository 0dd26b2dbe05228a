"""What a third party has: four lines, its own configuration of pytest, or no file at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from enginebay.probes import LIFE_CYCLE_PROBES, PROBES
from enginebay.testing.conformance_of_a_kind import conformance_class

ROOT = Path(__file__).parents[2]
ECHO = ROOT / "docs" / "examples" / "enginebay-echo"
FAULTLESS = ROOT / "tests" / "probes"
NUM_TESTS = len(PROBES) + len(LIFE_CYCLE_PROBES) + 1
STRICT = "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\nxfail_strict = true\n"

FOUR_LINES = """
from enginebay import get_backend
from enginebay.testing import BackendConformance


class TestEcho(BackendConformance):
    def make_backend(self):
        return get_backend("echo")
"""

LISTED = """
from enginebay.testing import BackendConformance
from faultless_backend import FaultlessBackend
from enginebay.types import Health, HealthState

class Base(BackendConformance):
    __test__ = False
    def make_backend(self):
        return FaultlessBackend(pace_s=0.0005)
    async def kill_engine(self, backend):
        backend.inner.kill()
    def make_loading_backend(self):
        return FaultlessBackend(load_takes_s=60)
"""


WHOLE = "TestEcho or TestAll or TestFragile or TestBroken"
IN_PART = "ready or stop_reason or names_of_probes or two_were_made or started_once"
"""Of the other classes these tests alone: a whole suite takes seconds."""

OWN = (
    LISTED
    + """
class TestAll(Base):
    pass

class Sick(FaultlessBackend):
    async def health(self):
        health = await super().health()
        return Health(HealthState.DEGRADED, "out of sorts") if health.state is HealthState.READY else health

class TestSick(Base):
    def make_backend(self):
        return Sick()

class TestKnownToBeSick(TestSick):
    expected_failures = {"health says ready": "it never does"}

class TestCured(Base):
    expected_failures = {"health says ready": "it never does"}

class Silent(FaultlessBackend):
    def stops(self, request, answer, num_tokens):
        is_stopped = super().stops(request, answer, num_tokens)
        answer.stop_reason = None
        return is_stopped

class TestSilent(Base):
    make_backend = lambda self: Silent()

class TestKnownToTell(TestSilent):
    never_skipped = frozenset({"stop_reason names the stop string"})

class TestMisspelt(Base):
    expected_failures = {"health says redy": "it never does"}

made = []

class Fragile(FaultlessBackend):
    def __init__(self):
        super().__init__()
        made.append(self)
    async def reset_prefix_cache(self):
        self.kill()

class TestFragile(Base):
    make_backend = lambda self: Fragile()
    test_life_cycle = None

def test_two_were_made_and_both_are_closed():
    assert len(made) == 2
    assert all(backend.is_closed for backend in made)

starts = []

class Broken(FaultlessBackend):
    async def start(self):
        starts.append(self)
        raise OSError("no such device")

class TestBroken(Base):
    make_backend = lambda self: Broken()
    test_life_cycle = None

def test_it_was_started_once():
    assert len(starts) == 1
"""
)


@dataclass(frozen=True)
class Ran:
    exit_code: int
    output: str

    @property
    def num(self) -> dict[str, int]:
        """Of pytest's last line."""
        last = self.output.strip().splitlines()[-1]
        return {word.rstrip("s"): int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", last)}

    def has(self, outcome: str, test: str) -> bool:
        return any(line.startswith(f"{outcome} {test}") for line in self.output.splitlines())

    def num_of(self, outcome: str, prefix: str) -> int:
        return sum(line.startswith(f"{outcome} {prefix}") for line in self.output.splitlines())


def run_pytest(folder: Path, *arguments: str) -> Ran:
    paths = (folder.parent / "installed", FAULTLESS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "--tb=short", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "250", "PYTEST_ADDOPTS": ""},
    )
    return Ran(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty, beside an installed example package: its module and the metadata that pip would have written."""
    root = tmp_path_factory.mktemp("conformance")
    metadata = root / "installed" / "enginebay_echo-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (root / "installed" / "enginebay_echo.py").write_text((ECHO / "enginebay_echo.py").read_text())
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: enginebay-echo\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[enginebay.backends]\necho = enginebay_echo\n")
    (root / "empty").mkdir()
    return root / "empty"


@pytest.fixture(scope="module")
def own(folder: Path) -> Ran:
    """A project of a third party with a strict configuration of its own: the four lines, and classes that fail."""
    project = folder.parent / "project"
    project.mkdir()
    (project / "pytest.ini").write_text(STRICT)
    (project / "test_echo.py").write_text(FOUR_LINES)
    (project / "test_own.py").write_text(OWN)
    return run_pytest(project, "-k", f"{WHOLE} or {IN_PART}")


def test_what_an_engine_is_known_to_tell_may_not_be_skipped(own: Ran) -> None:
    probe = "test_running[stop_reason names the stop string]"
    assert own.has("FAILED", f"test_own.py::TestKnownToTell::{probe} - Failed: must pass, but was skipped"), own.output
    assert not own.has("FAILED", f"test_own.py::TestSilent::{probe}")
    assert own.has("PASSED", f"test_own.py::TestAll::{probe}")


def test_four_lines_run_the_whole_suite_under_a_strict_configuration(own: Ran) -> None:
    name = "test_echo.py::TestEcho::"
    assert own.num_of("FAILED", name) == own.num_of("ERROR", name) == 0, own.output
    assert own.has("PASSED", f"{name}test_running[usage equals the tokens that arrived]")
    assert own.has("PASSED", f"{name}test_life_cycle[aclose twice is aclose once]")
    assert re.search(r"SKIPPED .*unsupported: refused by name: logprobs", own.output)


def test_the_four_lines_are_those_of_the_guide_and_of_the_example() -> None:
    lines = FOUR_LINES.strip()
    assert lines in (ROOT / "docs" / "writing-a-backend.md").read_text()
    assert lines == (ECHO / "test_echo.py").read_text().strip()


def test_a_backend_with_every_feature_and_every_hook_skips_nothing(own: Ran) -> None:
    assert own.num_of("PASSED", "test_own.py::TestAll::") == NUM_TESTS, own.output
    assert not own.has("PASSED", "test_own.py::Base"), "a base of one's own may say that it is no test"


def test_a_failure_says_what_was_wrong(own: Ran) -> None:
    assert own.has("FAILED", "test_own.py::TestSick::test_running[health says ready] - ")
    assert "health is degraded: out of sorts" in own.output
    assert own.num_of("FAILED", "test_own.py::TestSick::") == 1


def test_an_expected_failure_is_strict_and_must_be_the_name_of_a_probe(own: Ran) -> None:
    assert own.has("XFAIL", "test_own.py::TestKnownToBeSick::test_running[health says ready]")
    assert own.num_of("FAILED", "test_own.py::TestKnownToBeSick::") == 0
    assert own.has("FAILED", "test_own.py::TestCured::test_running[health says ready]")
    assert "passed, though it was expected to fail: it never does" in own.output
    assert own.has("FAILED", "test_own.py::TestMisspelt::test_expected_failures_are_names_of_probes")


def test_one_backend_serves_all_running_probes_and_a_dead_one_is_replaced(own: Ran) -> None:
    assert own.num_of("FAILED", "test_own.py::TestFragile::") == 1
    assert own.has("FAILED", "test_own.py::TestFragile::test_running[the prefix cache is reset]")
    assert own.has("PASSED", "test_own.py::test_two_were_made_and_both_are_closed")


def test_a_backend_that_does_not_start_is_started_once_and_every_test_says_why(own: Ran) -> None:
    assert own.num_of("FAILED", "test_own.py::TestBroken::") == len(PROBES)
    assert "the backend did not start: BackendError: start failed: OSError('no such device')" in own.output
    assert own.has("PASSED", "test_own.py::test_it_was_started_once")


# ---------------------------------------------------------------- the plugin of pytest


def test_no_file_is_needed_with_the_plugin_of_pytest(folder: Path) -> None:
    ran = run_pytest(folder, "--backend", "echo", "--backend-option", "words_per_second=100000")
    assert ran.exit_code == 0, ran.output
    assert ran.num["passed"] + ran.num["skipped"] == NUM_TESTS
    assert ran.has("PASSED", "echo::TestBackend::test_running[greedy repeats itself]")


def test_a_foreign_project_keeps_its_own_option_and_nothing_of_ours_is_imported(folder: Path) -> None:
    project = folder.parent / "foreign"
    project.mkdir()
    (project / "pytest.ini").write_text(STRICT)
    (project / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--backend', default='numpy')\n"
    )
    (project / "test_own.py").write_text(
        "import sys\n"
        "def test_own(request):\n"
        "    assert request.config.getoption('--backend') == 'jax'\n"
        "    ours = {name for name in sys.modules if name.partition('.')[0] == 'enginebay'}\n"
        "    assert ours == {'enginebay', 'enginebay.testing', 'enginebay.testing.pytest_plugin'}\n"
        "    assert not {'pydantic', 'msgspec'} & set(sys.modules)\n"
    )
    ran = run_pytest(project, "--backend", "jax")
    assert (ran.exit_code, ran.num) == (0, {"passed": 1}), ran.output


def test_a_kind_that_is_not_installed_ends_pytest_before_any_test(folder: Path) -> None:
    ran = run_pytest(folder, "--enginebay-backend", "ecko")
    assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "no backend of kind 'ecko' is installed" in ran.output


@pytest.mark.parametrize(
    ("options", "config_file", "problem"),
    [
        (["polcy=naive"], None, "polcy: unknown setting"),
        (["policy"], None, "--backend-option 'policy' is no KEY=VALUE"),
        (["policy=naive"], "x.yaml", "--backend-config and --backend-option exclude each other"),
        ([], "there-is-none.yaml", "there-is-none.yaml: cannot be read"),
    ],
)
def test_what_is_wrong_with_the_options_is_told(options: list[str], config_file: str | None, problem: str) -> None:
    with pytest.raises(pytest.UsageError, match=re.escape(problem)):
        conformance_class("reference", config_file=config_file, options=options)


def test_options_are_read_as_yaml_and_an_entry_of_a_config_is_taken(tmp_path: Path) -> None:
    made = conformance_class("reference", config_file=None, options=["policy=naive", "max_num_seqs=3"])
    assert made().make_backend().info.kind == "reference"
    path = tmp_path / "some.yaml"
    path.write_text("version: 1\nbackend: a\nbackends: {a: {kind: reference}}\n")
    made = conformance_class("a", config_file=str(path), options=())
    assert made().make_backend().info.name == "a"
