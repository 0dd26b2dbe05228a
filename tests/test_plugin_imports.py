"""Adapters lean on what they share, never on one another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
OWN_BACKENDS = ("reference", "openai_http")
SHARED = ("http_engine", "in_process", "launch", "worker")


def imported(folder: Path) -> set[str]:
    """Full names of the modules that the sources below it import."""
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")]
    assert sources
    return {name for text in sources for name in re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.M)}


def foreign(names: set[str], packages: list[str]) -> list[str]:
    return sorted(name for name in names if any(f"{name}.".startswith(f"{package}.") for package in packages))


@pytest.mark.parametrize("kind", PLUGINS)
def test_a_plugin_imports_no_other_adapter(kind: str) -> None:
    others = [f"enginebay.backends.{backend}" for backend in OWN_BACKENDS]
    others += [f"enginebay_{plugin}" for plugin in PLUGINS if plugin != kind]
    assert foreign(imported(ROOT / "plugins" / kind / "src"), others) == []


@pytest.mark.parametrize("package", SHARED)
def test_what_adapters_share_imports_no_adapter(package: str) -> None:
    own = [f"enginebay.backends.{backend}" for backend in OWN_BACKENDS]
    assert foreign(imported(ROOT / "src" / "enginebay" / "backends" / package), own) == []
