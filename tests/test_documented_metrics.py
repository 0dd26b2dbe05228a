"""The metric page and the catalogue are the same list."""

import re
from pathlib import Path

from enginebay.quantities import CATALOGUE

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_metric_page_lists_the_whole_catalogue_and_nothing_else() -> None:
    rows = re.findall(r"^\| `((?:llm|enginebay)_\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(), re.M)
    documented = {(name, kind, unit, meaning) for name, kind, unit, meaning in rows}
    assert documented == {
        (quantity.prometheus_name, quantity.type, quantity.unit, quantity.meaning) for quantity in CATALOGUE
    }


def test_every_name_says_what_it_counts() -> None:
    for quantity in CATALOGUE:
        assert quantity.prometheus_name.endswith("_total") == (quantity.type == "counter")
        assert bool(quantity.buckets) == (quantity.type == "histogram")
