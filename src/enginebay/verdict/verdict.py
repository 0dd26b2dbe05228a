"""What a comparison concludes, as it is saved in verdict.json and shown everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from enginebay.loadtest.files import load_struct, save_struct
from enginebay.loadtest.plan import Load
from enginebay.loadtest.result import InvalidReason
from enginebay.verdict.outputs.agreement import OutputAgreement

VERDICT_VERSION = 1
FILE_NAME = "verdict.json"

Outcome = Literal["faster", "slower", "equivalent", "undecided"]
"""Of the second subject against the first: `slower` is a lower throughput or a longer latency."""

Status = Literal["judged", "simulated", "invalid", "too few starts", "nothing to compare"]
"""`judged`: the outcomes say something, be it that they are undecided. Else there is no verdict, and why."""

Method = Literal["paired t", "paired bootstrap", "Welch t", "unpaired bootstrap"]

NO_VERDICT: dict[Status, str] = {
    "simulated": "no verdict (simulated)",
    "invalid": "no verdict (invalid)",
    "too few starts": "no verdict (fewer than three starts)",
    "nothing to compare": "no verdict (nothing to compare)",
}


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    low: float
    high: float
    confidence: float
    """Raised above 95 % as Holm's procedure wants, so that it excludes 1 where the outcome is a difference."""


class MetricVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One figure under one load, of `second` against `first`."""

    first: str
    second: str
    load: Load
    metric: str
    """`output_tokens_per_s`, `ttft_s.p50`, ...: a path into `Run.metrics`."""
    better: Literal["more", "less"]
    outcome: Outcome
    why_undecided: str = ""
    """In plain words; empty where it was decided."""
    first_value: float | None
    """Geometric mean over the starts that count."""
    second_value: float | None
    ratio: float | None
    """second / first; of paired starts the geometric mean of their ratios."""
    interval: Interval | None = None
    method: Method | None = None
    num_starts_first: int
    """That count: valid, complete, and of a pair where starts are paired."""
    num_starts_second: int
    p_difference: float | None = None
    """That the ratio is 1, adjusted for all figures, loads and subjects of the comparison."""
    p_not_equivalent: float | None = None
    """That the ratio lies outside the margin, adjusted likewise."""
    spread_ratio: float | None = None
    """Standard deviation of the log of what the interval is made of, one value a start: about 0.07 is 7 %."""
    num_more_starts: int | None = None
    """Of each side, that would decide in four of five cases, if ratio and spread are what they seem now. None where
    it is decided, or where no number of starts up to 1000 is likely to decide."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence of why, with the figures that it stands on."""

    quantity: str
    """`queue_s`, `prefill_s`, `decode_s`, `batch_size`, `cache_hit_ratio`, `tokens_per_step`, ..."""
    first_value: float
    second_value: float
    sentence: str


class InvalidRun(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    load: Load | None
    """None where the start failed before the load."""
    start_index: int | None
    reasons: tuple[InvalidReason, ...]


class LoadVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Two subjects under one load."""

    first: str
    second: str
    load: Load
    status: Status
    metrics: tuple[MetricVerdict, ...] = ()
    """Also where there is no verdict: then all are undecided, and ratios are shown only where runs may be compared."""
    invalid: tuple[InvalidRun, ...] = ()
    """Runs and starts that count for nothing. Their subject can lose, but neither win nor be equivalent."""
    against: tuple[InvalidReason, ...] = ()
    """Why runs that are valid by themselves are not set against each other."""
    reasons: tuple[Reason, ...] = ()
    """Why one is faster, as far as the engines tell; most telling first."""

    @property
    def outcomes(self) -> frozenset[Outcome]:
        return frozenset(metric.outcome for metric in self.metrics)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of each further subject against the first. One family of hypotheses: all loads, figures and subjects."""

    version: int = VERDICT_VERSION
    plan_sha256: str
    subjects: tuple[str, ...]
    """The first is what the others are set against."""
    status: Status
    """The worst that holds for all loads: `judged` as soon as one load could be."""
    paired: bool
    """Whether starts stood side by side in time (one session), or each result has its own (two sessions)."""
    margin: float
    """Ratios within 1 / (1 + margin) and 1 + margin count as equivalent."""
    confidence: float
    """That no `faster` or `slower` of the whole verdict is wrong; the same for `equivalent`."""
    num_hypotheses: int
    loads: tuple[LoadVerdict, ...]
    headline: str
    """One sentence in plain words."""
    sentences: tuple[str, ...] = ()
    """The findings in plain words, most important first, the headline not repeated."""
    caveats: tuple[str, ...] = ()
    """What a reader must know besides: other machines, other settings, runs that do not count."""
    outputs: tuple[OutputAgreement, ...] = ()
    """Whether the subjects say the same; empty where nobody looked."""

    @property
    def metrics(self) -> tuple[MetricVerdict, ...]:
        return tuple(metric for load in self.loads for metric in load.metrics)

    @property
    def has_decided(self) -> bool:
        return any(metric.outcome != "undecided" for metric in self.metrics)


def save_verdict(verdict: Verdict, path: Path) -> None:
    save_struct(verdict, path)


def load_verdict(path: Path) -> Verdict:
    """`path`: verdict.json or the directory that holds it."""
    file = path / FILE_NAME if path.is_dir() else path
    return load_struct(file, Verdict, what="a verdict of `enginebay compare`")
