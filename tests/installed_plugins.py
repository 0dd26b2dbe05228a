"""Stands in for installed distributions: entry points that exist in one test alone."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

ECHO_DIR = Path(__file__).parent.parent / "docs" / "examples" / "enginebay-echo"
GROUP = "enginebay.backends"


def entry_point(kind: str, *, module: str, distribution: str) -> EntryPoint:
    found = EntryPoint(name=kind, value=module, group=GROUP)
    vars(found).update(dist=SimpleNamespace(name=distribution))  # as importlib.metadata does
    return found


def install(monkeypatch, *entry_points: EntryPoint) -> None:
    """These and no others are installed."""
    monkeypatch.setattr("enginebay.plugins.entry_points", lambda group: [e for e in entry_points if e.group == group])


def install_echo(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ECHO_DIR))
    install(monkeypatch, entry_point("echo", module="enginebay_echo", distribution="enginebay-echo"))


def module_of(monkeypatch, name: str, **contents: object) -> str:
    """A module that holds these names; return its name."""
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return name
