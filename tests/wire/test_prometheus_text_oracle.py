"""Our reading of the text format against prometheus_client's own parser."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from enginebay.errors import UpstreamError
from enginebay.wire.prometheus_text import parse_metrics

SAMPLES = sorted((Path(__file__).parents[1] / "data" / "contracts" / "metrics").glob("*.prom"))


def read_by_the_library(text: str) -> dict[str, list[tuple[dict[str, str], str]]]:
    found: dict[str, list[tuple[dict[str, str], str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), repr(float(sample.value))))
    return found


def read_by_us(text: str) -> dict[str, list[tuple[dict[str, str], str]]]:
    samples = parse_metrics(text).samples
    return {name: [(dict(sample.labels), repr(float(sample.value))) for sample in samples[name]] for name in samples}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_engines_own_texts_are_read_alike(path) -> None:
    text = path.read_text()
    assert read_by_us(text) == read_by_the_library(text)


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4),
    st.floats(),
)
def test_whatever_stands_in_labels_is_read_alike(values, number) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("some_gauge", "A gauge.", ["of", "and_of"], registry=registry)
    counter = Counter("some_counter", "A counter.", registry=registry)
    histogram = Histogram("some_seconds", "A histogram.", ["of"], registry=registry)
    for value in values:
        gauge.labels(value, "x").set(number)
        histogram.labels(value).observe(0.3)
    counter.inc(3)
    text = generate_latest(registry).decode()
    assert read_by_us(text) == read_by_the_library(text)


@pytest.mark.parametrize(
    "text",
    [
        'm{a="1",b="x, y} z"} 2\n',
        'm{a="1",} 2 1700000000000\n',
        "m  3.5e-3\nm2 +Inf\nm3 -Inf\nm4 NaN\n",
        "# only a comment\n\n",
        'm{ a = "b" } 4\n',
        'm{a="back\\\\slash \\"quoted\\" new\\nline"} 1\n',
    ],
)
def test_the_corners_of_the_format_are_read_alike(text) -> None:
    assert read_by_us(text) == read_by_the_library(text)


@pytest.mark.parametrize(
    "text", ["<html>busy</html>", '{"detail": "not found"}', "m", "one\ntwo 2\n", "m{a 1\n", "m 1 2 3\n"]
)
def test_what_is_no_such_text_is_refused(text) -> None:
    with pytest.raises(UpstreamError, match="no Prometheus text"):
        parse_metrics(text)


@pytest.mark.parametrize("text", ["m words\n", "m{a=1} 2\n", 'm{a="1" b="2"} 2\n', "m 1 2 3\n"])
def test_a_sample_that_is_malformed_is_refused_when_it_is_asked_for(text) -> None:
    with pytest.raises(UpstreamError, match="no Prometheus text"):
        parse_metrics(text).value("m")
