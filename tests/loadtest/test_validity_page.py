"""docs/validity.md names every reason with the bound that the code has; write it anew with this file as a script."""

import re
import sys
from pathlib import Path

import enginebay.loadtest.validity as package
from enginebay.loadtest.validity.catalogue import REASONS, markdown_table
from enginebay.loadtest.validity.reason import Reason

PAGE = Path(__file__).parents[2] / "docs" / "validity.md"
SECTIONS = {"runs": "run", "comparisons": "comparison"}


def written(text: str) -> str:
    for section, scope in SECTIONS.items():
        begin, end = f"<!-- reasons of {section}: begin -->", f"<!-- reasons of {section}: end -->"
        table = f"{begin}\n{markdown_table(scope)}\n{end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, table=table: table, text, flags=re.DOTALL)
    return text


def test_the_page_has_every_reason_with_its_bound() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text), f"run: python {Path(__file__).name}"
    for reason in REASONS:
        assert f"| `{reason.code}` |" in text


def test_every_reason_in_the_code_is_in_the_catalogue_once() -> None:
    sources = [file.read_text(encoding="utf-8") for file in Path(package.__path__[0]).glob("*.py")]
    in_code = {code for source in sources for code in re.findall(r'code="(\w+)"', source)}
    assert sorted(in_code) == sorted(reason.code for reason in REASONS)
    assert all(isinstance(reason, Reason) and reason.bound and reason.remedy for reason in REASONS)


def test_no_cell_breaks_the_table() -> None:
    for reason in REASONS:
        assert "|" not in "".join((reason.meaning, reason.bound, reason.remedy))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
