"""Real text of our own, shipped with the package: prose, notes, instructions, program code."""

from __future__ import annotations

from importlib import resources


def read_corpus() -> str:
    folder = resources.files("enginebay.loadtest") / "corpus"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name)
    return "\n\n".join(file.read_text(encoding="utf-8").strip() for file in files)
