"""Promises about the project as a whole: its lock, its import cost, its layout."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement_name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_the_core_has_at_most_twelve_direct_dependencies() -> None:
    assert 0 < len(PROJECT["dependencies"]) <= 12


def test_every_core_dependency_is_pinned_with_hashes() -> None:
    lock = (ROOT / ".ci" / "core.lock").read_text()
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)(?: ;[^\n]*)? \\\n    --hash=sha256:", lock, re.M))
    direct = {requirement_name(requirement) for requirement in PROJECT["dependencies"]}
    assert direct <= set(pinned)
    assert "torch" not in pinned


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, enginebay; enginebay.SamplingParams(max_tokens=1); enginebay.get_backend\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'starlette', 'plotly', 'rich', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_top_level_holds_only_what_the_architecture_names() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {line.split("/")[0] for line in tracked if line and not line.startswith(".")}
    assert top <= {
        "pyproject.toml", "src", "plugins", "configs", "tests", "benchmarks", "docs",
        "Makefile", "README.md", "CHANGELOG.md", "LICENSE",
    }  # fmt: skip


def test_the_version_is_told_by_the_package_and_its_metadata() -> None:
    from importlib.metadata import version

    import enginebay

    assert enginebay.__version__ == version("enginebay")


def test_no_page_of_the_documentation_stands_twice_in_its_navigation() -> None:
    pages = re.findall(r"[\w/-]+\.md", (ROOT / ".ci" / "mkdocs.yml").read_text())
    assert sorted(pages) == sorted(set(pages))


def test_no_file_points_to_a_home_on_the_web_that_the_project_does_not_have() -> None:
    guessed = "github.com/" + "enginebay"
    done = subprocess.run(["git", "grep", "-lF", guessed], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""
