"""Does the search find a capacity that theory knows? Many searches on queues with Poisson arrivals and equal services.

    python benchmarks/capacity_search.py [--searches 200] [--out FILE]

Simulated: the probes are arithmetic (M/D/c), so that thousands of searches take minutes; the search is the one that
`enginebay bench --capacity` runs. Each starts at a rate from a thirtieth to three times the capacity and has at most
twelve probes. Told for each queue: how many searches end within 5 % of the exact capacity (Franx 2001), the errors, and
how often the interval of 95 % contains the capacity. Writes JSON and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from enginebay.loadtest.capacity.levels import CapacityLevels
from enginebay.loadtest.capacity.misses import count_misses
from enginebay.loadtest.capacity.posterior import Observation
from enginebay.loadtest.capacity.probing import SETTLING_RATIO
from enginebay.loadtest.capacity.saturation import SaturationWatch
from enginebay.loadtest.capacity.search import CapacitySearch
from enginebay.loadtest.records import Arrival, Record
from enginebay.testing.known_capacity import KnownQueue

DEFAULT_OUT = Path(__file__).parent / "results" / "capacity_search.json"
MAX_PROBES = 12
CONFIDENCE = 0.95
BAR = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """Levels are waits before the service, in service times of one second."""

    name: str
    num_servers: int
    level_s: float
    percentile: float
    num_requests: int
    """Of one probe."""

    @property
    def allowed_ratio(self) -> float:
        return 1 - self.percentile / 100

    @property
    def queue(self) -> KnownQueue:
        return KnownQueue(num_servers=self.num_servers, service_s=1.0)


CASES = (
    Case("one at a time, p95", 1, 4.0, 95, 2000),
    Case("one at a time, p99", 1, 4.0, 99, 5000),
    Case("one at a time, patient users, p95", 1, 20.0, 95, 5000),
    Case("8 slots, p90", 8, 0.5, 90, 2000),
    Case("8 slots, p95", 8, 1.0, 95, 2000),
    Case("32 slots, p95", 32, 0.3, 95, 2000),
    Case("32 slots, p95, short probes", 32, 0.3, 95, 500),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200, help="of each queue")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    results = [result_of(case, arguments.searches, num_processes=arguments.processes) for case in CASES]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"simulated": True, "max_probes": MAX_PROBES, "confidence": CONFIDENCE, "cases": results}
    arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(table(results))
    return 0


@dataclass(frozen=True, slots=True)
class Found:
    log_error: float
    is_covered: bool
    half_width_ratio: float
    num_probes: int
    num_given_up: int


def result_of(case: Case, num_searches: int, *, num_processes: int) -> dict[str, object]:
    capacity = case.queue.capacity_rps(case.level_s, allowed_ratio=case.allowed_ratio)
    with Pool(num_processes) as pool:
        found = pool.starmap(search_on, [(case, capacity, seed) for seed in range(num_searches)])
    errors = np.abs(np.expm1([each.log_error for each in found]))
    return {
        **asdict(case),
        "capacity_rps": round(capacity, 4),
        "load_at_capacity": round(capacity / case.queue.limit_rps, 4),
        "num_searches": num_searches,
        "within_5_percent_ratio": round(float(np.mean(errors <= BAR)), 4),
        "median_error": round(float(np.median(errors)), 4),
        "p95_error": round(float(np.quantile(errors, 0.95)), 4),
        "mean_log_error": round(float(np.mean([each.log_error for each in found])), 4),
        "covered_ratio": round(float(np.mean([each.is_covered for each in found])), 4),
        "mean_half_width_ratio": round(float(np.mean([each.half_width_ratio for each in found])), 4),
        "mean_num_probes": round(float(np.mean([each.num_probes for each in found])), 2),
        "mean_num_given_up": round(float(np.mean([each.num_given_up for each in found])), 2),
    }


def search_on(case: Case, capacity: float, seed: int) -> Found:
    rng = np.random.default_rng(seed)
    start_rps = capacity * math.exp(rng.uniform(math.log(1 / 30), math.log(3)))
    search = CapacitySearch(start_rps=start_rps, max_probes=MAX_PROBES, confidence=CONFIDENCE)
    while (rate := search.next_rate()) is not None:
        search.observe(probe(case, rate, rng))
    estimate = search.estimate
    low, high = estimate.interval_rps
    return Found(
        log_error=math.log(estimate.rate_rps / capacity),
        is_covered=low <= capacity <= high,
        half_width_ratio=estimate.half_width_ratio,
        num_probes=len(search.observations),
        num_given_up=sum(seen.is_saturated for seen in search.observations),
    )


def probe(case: Case, rate_rps: float, rng: np.random.Generator) -> Observation:
    """As a run shows it: given up by the same rule, the settling left out, the rate that came about."""
    arrived_at = np.cumsum(rng.exponential(1 / rate_rps, case.num_requests))
    waits = case.queue.waits(arrived_at)
    given_up_at = _given_up_at(case, arrived_at, waits)
    if given_up_at is not None:
        ended = arrived_at + waits + 1.0 <= given_up_at
        half_s = given_up_at / 2
        served = int(np.sum(arrived_at[ended] + waits[ended] + 1.0 >= half_s)) / half_s
        return _observation(case, arrived_at, waits[ended], served_rps=served)
    is_settled = arrived_at >= SETTLING_RATIO * arrived_at[-1]
    return _observation(case, arrived_at, waits[is_settled], served_rps=None)


def _observation(case: Case, arrived_at: np.ndarray, waits: np.ndarray, *, served_rps: float | None) -> Observation:
    misses = count_misses((waits > case.level_s).tolist(), allowed_ratio=case.allowed_ratio)
    return Observation(
        rate_rps=(len(arrived_at) - 1) / float(arrived_at[-1] - arrived_at[0]),
        misses={"ttft_s": misses},
        is_saturated=served_rps is not None,
        served_rps=served_rps,
    )


def _given_up_at(case: Case, arrived_at: np.ndarray, waits: np.ndarray) -> float | None:
    """Looked at after each twentieth of the time of sending."""
    if np.mean(waits > case.level_s) <= case.allowed_ratio:
        return None
    watch = SaturationWatch(arrived_at.tolist(), CapacityLevels(ttft_s=case.level_s + 1.0, percentile=case.percentile))
    ends = arrived_at + waits + 1.0
    order, seen = np.argsort(ends), 0
    for share in range(5, 21):
        at = arrived_at[-1] * share / 20
        while seen < len(order) and ends[order[seen]] <= at:
            watch.see(_record(float(arrived_at[order[seen]]), float(ends[order[seen]])))
            seen += 1
        if watch.is_saturated(at):
            return float(at)
    return None


def _record(scheduled_at: float, ended_at: float) -> Record:
    return Record(
        index=0,
        scheduled_at=scheduled_at,
        sent_at=scheduled_at,
        ended_at=ended_at,
        arrivals=[Arrival(ended_at, 1)],
        num_planned_prompt_tokens=1,
        max_tokens=1,
        num_output_tokens=1,
    )


def table(results: Sequence[dict[str, object]]) -> str:
    lines = [
        "| queue | requests a probe | load at the capacity | searches | within 5 % | median error | 95 % of the errors "
        "below | interval contains it | half of the interval | probes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results:
        cells = [
            str(row["name"]), str(row["num_requests"]), f"{row['load_at_capacity']:.1%}", str(row["num_searches"]),
            f"{row['within_5_percent_ratio']:.1%}", f"{row['median_error']:.1%}", f"{row['p95_error']:.1%}",
            f"{row['covered_ratio']:.1%}", f"±{row['mean_half_width_ratio']:.1%}", f"{row['mean_num_probes']:g}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
