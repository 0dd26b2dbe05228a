"""`enginebay compare`: the verdict on saved results, and what a CI makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console

from enginebay.errors import ConfigError, NotComparable
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.result import Result, load_result
from enginebay.report.verdict_section import print_verdict, verdict_document
from enginebay.verdict.certificate.for_comparison import check_for_comparison
from enginebay.verdict.comparison.judge import demand_one_plan, judge, judge_between, pairings_between
from enginebay.verdict.comparison.phrases import listed
from enginebay.verdict.gate import GATES, exit_code, gate_failures, parse_gates
from enginebay.verdict.junit import junit_xml
from enginebay.verdict.outputs.agreement import OutputAgreement
from enginebay.verdict.outputs.of_result import output_agreements, output_agreements_between, said_in
from enginebay.verdict.verdict import Verdict, save_verdict


def compare(
    first: Annotated[Path, Parameter(help="result.json of bench, or the folder that holds it.")],
    second: Annotated[
        Path | None, Parameter(help="What it is compared with; left out, the backends of the first with each other.")
    ] = None,
    /,
    *,
    fail_on: Annotated[
        str | None,
        Parameter(help=f"What makes the exit code 1, with commas: {', '.join(GATES)}."),
    ] = None,
    margin: Annotated[
        float | None,
        Parameter(help="Differences up to this share count as equivalent, as in 0.05; else what the result says."),
    ] = None,
    junit: Annotated[Path | None, Parameter(help="Write the verdict as JUnit XML, for CI.")] = None,
    markdown: Annotated[Path | None, Parameter(help="Write the verdict as Markdown, for a pull request.")] = None,
    json: Annotated[Path | None, Parameter(help="Write the verdict as JSON.")] = None,
) -> int:
    """Say which of two is faster, slower, equivalent or undecided, from several starts of each.

    Two engines, two versions or two settings of one: an upgrade is compared like another engine. Exit code 0: decided;
    1: a gate of --fail-on failed; 2: wrong command line or file; 3: invalid runs, or nothing could be decided.
    """
    gates = parse_gates(fail_on)
    if margin is not None and margin < 0:
        raise ConfigError(f"--margin is {margin:g}", expected="0 or more, as in 0.05")
    verdict = compared(first, second, margin=margin)
    console = Console()
    print_verdict(verdict, console)
    for failure in gate_failures(verdict, gates):
        console.print(f"gate {failure.gate}: {failure.message}", style="red", highlight=False, markup=False)
    if junit is not None:
        write_atomically(junit, junit_xml(verdict, gates))
    if markdown is not None:
        write_atomically(markdown, verdict_document(verdict).encode())
    if json is not None:
        save_verdict(verdict, json)
    return exit_code(verdict, gates)


def compared(first: Path, second: Path | None, *, margin: float | None = None) -> Verdict:
    """Raises LoadTestError for what is no result, NotComparable for what cannot be set side by side."""
    if second is None:
        caveats = check_for_comparison(_folder(first))
        result = load_result(first)
        caveats += [*_unchecked((result, "")), *_without_records(first)]
        return _with(caveats, judge(result, margin=margin, outputs=_outputs(first)))
    results, names = (load_result(first), load_result(second)), _names(first, second)
    if _folder(first).resolve() == _folder(second).resolve():
        raise NotComparable(f"{first} and {second} are one result: give it once to compare its backends")
    demand_one_plan(*results)
    caveats = check_for_comparison(_folder(first), _folder(second))
    caveats += [*_unchecked(*zip(results, names, strict=True)), *_without_records(first, second)]
    outputs = _outputs_between(first, second, results, names=names)
    return _with(caveats, judge_between(*results, names=names, margin=margin, outputs=outputs))


def _with(caveats: list[str], verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, caveats=(*verdict.caveats, *caveats))


def _unchecked(*named: tuple[Result, str]) -> list[str]:
    """What the runs were not held to when they were measured, and cannot be now. name: empty where there is one."""
    labels_of: dict[tuple[str, str], list[str]] = {}
    for result, name in named:
        for run in result.runs:
            for one in run.unchecked:
                label = f"{run.label} ({name})" if name else run.label
                labels_of.setdefault((one.code, one.why), []).append(label)
    return [
        f"Not looked at ({code}) of {listed(list(dict.fromkeys(labels)))}: {why}."
        for (code, why), labels in labels_of.items()
    ]


def _without_records(*paths: Path) -> list[str]:
    return [
        f"{_folder(path).resolve().name}: without records.jsonl and plan.json the outputs were not compared."
        for path in paths
        if not _has_records(path)
    ]


def _names(first: Path, second: Path) -> tuple[str, str]:
    names = [_folder(path).resolve().name for path in (first, second)]
    return (names[0], names[1]) if names[0] != names[1] else (str(first), str(second))


def _outputs(folder: Path) -> tuple[OutputAgreement, ...]:
    """None of a result without its records: figures can be compared all the same."""
    if not _has_records(folder):
        return ()
    return output_agreements(said_in(folder))


def _outputs_between(
    first: Path, second: Path, results: tuple[Result, Result], *, names: tuple[str, str]
) -> tuple[OutputAgreement, ...]:
    if not (_has_records(first) and _has_records(second)):
        return ()
    one, other = said_in(first), said_in(second)
    return tuple(
        agreement
        for pairing in pairings_between(*results, names=names)
        for agreement in output_agreements_between(
            (one, pairing.labels[0]), (other, pairing.labels[1]), names=pairing.names
        )
    )


def _has_records(path: Path) -> bool:
    folder = _folder(path)
    return (folder / "records.jsonl").is_file() and (folder / "plan.json").is_file()


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
