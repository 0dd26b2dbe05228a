"""docs/gateway.md lists every setting of `gateway:`, in its own words, and names every shipped config.

python tests/config/test_gateway_page.py    # writes the table
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from enginebay.config.gateway import GatewayConfig

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gateway.md"
BLOCK = re.compile(r"(<!-- gateway -->\n).*?(<!-- end -->)", re.DOTALL)


def table() -> str:
    rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in settings(GatewayConfig, "")]
    return "\n".join(["| key | default | what it is |", "|---|---|---|", *rows])


def settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        assert field.description, f"{prefix}{name} has no description"
        inner = list(dict.fromkeys(models_in(field.annotation)))
        default = "" if inner else shown(field.default)
        yield f"{prefix}{name}", default, field.description.replace("|", "\\|")
        steps = {False: ".", True: ".NAME."}
        for one in inner:
            yield from settings(one, f"{prefix}{name}{steps[is_map(field.annotation)]}")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def is_map(annotation: Any) -> bool:
    return "Mapping[" in str(annotation)


def shown(default: object) -> str:
    """As it stands in YAML; nothing for what must be given, and for what is off."""
    if default is None or default is PydanticUndefined or isinstance(default, Mapping | tuple):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def with_table(page: str) -> str:
    return BLOCK.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", page)


def test_the_table_says_what_the_descriptions_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(BLOCK.findall(page)) == 1
    assert with_table(page) == page, "write it anew: python tests/config/test_gateway_page.py"


def test_the_page_names_every_shipped_config() -> None:
    named = set(re.findall(r"^\| `(configs/gateway/[\w-]+\.yaml)` ", PAGE.read_text(encoding="utf-8"), re.M))
    assert named == {f"configs/gateway/{path.name}" for path in (ROOT / "configs" / "gateway").glob("*.yaml")}


def test_the_security_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
