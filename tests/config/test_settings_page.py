"""docs/config.md lists every portable setting and every option of the reference engine, in their own words.

python tests/config/test_settings_page.py    # writes the tables
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from enginebay.backends.reference.options import ReferenceOptions
from enginebay.config.settings import EngineSettings

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
TABLES: dict[str, type[BaseModel]] = {"engine settings": EngineSettings, "reference options": ReferenceOptions}


def table(model: type[BaseModel]) -> str:
    has_defaults = any(field.default is not None for field in model.model_fields.values())
    head = "| key | default | what it is |\n|---|---|---|" if has_defaults else "| key | what it is |\n|---|---|"
    rows = [head]
    for name, field in model.model_fields.items():
        assert field.description, f"{name} has no description"
        default = f" {shown(field.default)} |" if has_defaults else ""
        rows.append(f"| `{name}` |{default} {field.description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def shown(default: object) -> str:
    """As it stands in YAML."""
    if default is None:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    for name, model in TABLES.items():
        text = table(model)
        page = block(name).sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_page_has_the_table(name: str) -> None:
    assert len(block(name).findall(PAGE.read_text(encoding="utf-8"))) == 1


def test_the_tables_say_what_the_descriptions_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "write them anew: python tests/config/test_settings_page.py"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
