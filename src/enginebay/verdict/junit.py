"""A verdict as JUnit XML, which every CI shows: a suite for each load, a case for each figure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection

from enginebay.verdict.comparison.figures import TITLES
from enginebay.verdict.comparison.phrases import changed
from enginebay.verdict.comparison.words import invalid_words
from enginebay.verdict.gate import GateName
from enginebay.verdict.outputs.agreement import OutputAgreement
from enginebay.verdict.verdict import NO_VERDICT, LoadVerdict, MetricVerdict, Verdict


def junit_xml(verdict: Verdict, gates: Collection[GateName]) -> bytes:
    """What `gates` name fails; what else was found passes and is told in the case. Undecided is skipped, not passed."""
    root = ET.Element("testsuites", name="enginebay compare")
    for load in verdict.loads:
        suite = ET.SubElement(root, "testsuite", name=f"{load.second} against {load.first}, {load.load}")
        for metric in load.metrics:
            _metric_case(suite, metric, load, gates)
        for invalid in load.invalid:
            _invalid_case(suite, invalid_words(invalid), gates)
        for reason in load.against:
            _invalid_case(suite, f"{load.second} against {load.first}: {reason.code}: {reason.detail}", gates)
    if verdict.outputs:
        suite = ET.SubElement(root, "testsuite", name="outputs")
        for agreement in verdict.outputs:
            _outputs_case(suite, agreement, gates)
    for suite in root:
        _count(suite)
    _count(root)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _metric_case(suite: ET.Element, metric: MetricVerdict, load: LoadVerdict, gates: Collection[GateName]) -> None:
    title = TITLES.get(metric.metric, metric.metric)
    case = _case(suite, name=title)
    found = f"{metric.outcome}: {changed(metric, title)}"
    if load.status != "judged":
        _skip(case, NO_VERDICT[load.status], is_failure="undecided" in gates)
    elif metric.outcome == "undecided":
        _skip(case, f"{found}: {metric.why_undecided}", is_failure="undecided" in gates)
    elif metric.outcome == "slower" and "slower" in gates:
        ET.SubElement(case, "failure", message=found, type="slower")
    else:
        ET.SubElement(case, "system-out").text = found


def _invalid_case(suite: ET.Element, words: str, gates: Collection[GateName]) -> None:
    case = _case(suite, name=f"valid: {words.partition(':')[0]}")
    if "invalid" in gates:
        ET.SubElement(case, "failure", message=words, type="invalid")
    else:
        _skip(case, words, is_failure=False)


def _outputs_case(suite: ET.Element, agreement: OutputAgreement, gates: Collection[GateName]) -> None:
    case = _case(suite, name=f"{agreement.second} says what {agreement.first} says, {agreement.where}")
    if agreement.not_compared:
        _skip(case, agreement.not_compared, is_failure=False)
    elif agreement.is_beyond_bound and "outputs" in gates:
        ET.SubElement(case, "failure", message=agreement.finding, type="outputs")
    else:
        ET.SubElement(case, "system-out").text = agreement.finding


def _case(suite: ET.Element, *, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=f"enginebay.{suite.attrib['name']}", name=name, time="0")


def _skip(case: ET.Element, message: str, *, is_failure: bool) -> None:
    if is_failure:
        ET.SubElement(case, "failure", message=message, type="undecided")
    else:
        ET.SubElement(case, "skipped", message=message)


def _count(element: ET.Element) -> None:
    """Totals that readers of the format expect on each level."""
    counted = {"tests": "testcase", "failures": "failure", "skipped": "skipped"}
    for attribute, tag in counted.items():
        element.set(attribute, str(sum(1 for _ in element.iter(tag))))
    element.set("errors", "0")
