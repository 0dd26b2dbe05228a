"""What comes of a result: the verdict, its reports and picture, and the exit code of a gate."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.text import Text

from enginebay.cli.bench.flags import ResultFlags
from enginebay.errors import ConfigError, NotComparable
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.result import InvalidReason, Result
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.report.data import Report, load_report
from enginebay.report.picture import FORMATS, save_picture
from enginebay.report.terminal import print_runs
from enginebay.report.verdict_section import verdict_document
from enginebay.report.write import write_reports
from enginebay.verdict.certificate.certificate import FILE_NAME as CERTIFICATE
from enginebay.verdict.certificate.certificate import load_certificate
from enginebay.verdict.certificate.for_comparison import demand_identical
from enginebay.verdict.comparison.judge import judge
from enginebay.verdict.gate import FAILED, PASSED, GateName, exit_code, gate_failures, parse_gates
from enginebay.verdict.junit import junit_xml
from enginebay.verdict.outputs.of_result import output_agreements, said_in
from enginebay.verdict.verdict import FILE_NAME, Verdict, save_verdict

INVALID = 3


def check_result_flags(flags: ResultFlags, *, num_backends: int) -> None:
    """Before hours are spent on a measurement. Raises ConfigError."""
    gates = parse_gates(flags.fail_on)
    if num_backends < 2 and (beyond := sorted(gates - {"invalid"})):
        raise ConfigError(f"--fail-on {beyond[0]} needs two backends, and one is measured", expected="--backend twice")
    if num_backends < 2 and (flags.junit or flags.markdown):
        raise ConfigError("--junit and --markdown write a verdict, and one backend gives none")
    for picture in flags.picture or ():
        if picture.suffix.lower() not in FORMATS:
            raise ConfigError(f"{picture}: no picture can be drawn in that form", expected=" or ".join(FORMATS))


def judged(result: Result, folder: Path, *, tokenizer: TextTokenizer | None) -> Verdict | None:
    """The verdict between the backends of a result, saved beside it; None where fewer than two were measured."""
    if len({run.label for run in result.runs}) < 2:
        return None
    outputs = output_agreements(said_in(folder), tokenizer=tokenizer)
    verdict = judge(result, outputs=outputs, apart=loads_apart(folder))
    save_verdict(verdict, folder / FILE_NAME)
    return verdict


def loads_apart(folder: Path) -> list[InvalidReason]:
    """What the certificate shows against setting the runs of a folder side by side; nothing where there is none."""
    if not (folder / CERTIFICATE).exists():
        return []
    try:
        demand_identical(load_certificate(folder), name=folder.name)
    except NotComparable as error:
        return [InvalidReason(code="load_not_identical", detail=str(error))]
    return []


def report_on(folder: Path, flags: ResultFlags, *, console: Console) -> int:
    """Print, write and draw what the folder holds; returns the exit code."""
    report = load_report(folder)
    print_runs(report, console)
    for path in [*write_reports(report, folder), *_drawn(report, flags), *_exported(report, flags)]:
        console.print(f"{path.name:12} {path}", highlight=False, soft_wrap=True, markup=False)
    if flags.fail_on is None:
        return PASSED if not report.invalid_runs else INVALID
    return _gated(report, parse_gates(flags.fail_on), console)


def _drawn(report: Report, flags: ResultFlags) -> list[Path]:
    for picture in flags.picture or ():
        save_picture(report, picture)
    return list(flags.picture or ())


def _exported(report: Report, flags: ResultFlags) -> list[Path]:
    if report.verdict is None:
        return []
    written: list[Path] = []
    if flags.junit is not None:
        write_atomically(flags.junit, junit_xml(report.verdict, parse_gates(flags.fail_on)))
        written.append(flags.junit)
    if flags.markdown is not None:
        write_atomically(flags.markdown, verdict_document(report.verdict).encode())
        written.append(flags.markdown)
    return written


def _gated(report: Report, gates: Collection[GateName], console: Console) -> int:
    if report.verdict is None:
        code = FAILED if report.invalid_runs else PASSED
        messages = [f"INVALID {run.name}, {run.run.load}" for run in report.invalid_runs]
    else:
        code = exit_code(report.verdict, gates)
        messages = [failure.message for failure in gate_failures(report.verdict, gates)]
    for message in messages:
        console.print(Text(f"gate failed: {message}", style="red"), soft_wrap=True)
    return code
