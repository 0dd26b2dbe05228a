"""docs/engines.md says of each engine what its plugin says, and nothing else."""

import re
from pathlib import Path

import pytest

from enginebay.plugins import PACKAGES, find_backend, list_backends

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "engines.md").read_text()
BEGIN, END = "<!-- evidence: held to the plugins by a test -->\n", "<!-- end of evidence -->"
KINDS = ("reference", "openai_http", *PACKAGES)
MODES = {"managed": 1, "docker": 2, "external": 3, "in_process": 4}

pytestmark = pytest.mark.skipif(
    not set(PACKAGES) <= {backend.kind for backend in list_backends()}, reason="the plugins are not installed"
)


def evidence_table() -> str:
    rows = [f"| `{kind}` | {find_backend(kind).evidence} |" for kind in KINDS]
    return "\n".join(["| kind | checked |", "|---|---|", *rows, ""])


def test_the_evidence_on_the_page_is_that_of_the_plugins() -> None:
    assert PAGE.partition(BEGIN)[2].partition(END)[0] == evidence_table(), f"write this:\n{evidence_table()}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_evidence_is_a_bare_claim(kind: str) -> None:
    """It says what ran and where, or that the engine itself has not."""
    evidence = find_backend(kind).evidence
    assert re.match(r"(ran real|contract checked|unverified)\b.{20,}", evidence)
    if evidence.startswith("ran real") and kind != "reference":  # that one is of this package, and its tests run it
        assert re.search(r"\d{4}-\d{2}-\d{2}", evidence), "when"
    if evidence.startswith("contract checked"):
        assert "has not run" in evidence


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("openai_http", "reference")])
def test_the_modes_on_the_page_are_those_of_the_plugins(kind: str) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |") and line.count("|") == 6]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert {mode for mode, column in MODES.items() if cells[column]} == set(find_backend(kind).modes)
