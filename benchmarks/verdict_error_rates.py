"""How often the verdict is wrong, and how often it finds what is there.

    python benchmarks/verdict_error_rates.py [--comparisons 2000] [--out benchmarks/results/verdict_error_rates.json]

An engine is compared with itself 2,000 times, drawn from recorded starts (verdict_recorder.py; left out where there
are none) and from simulated ones, and asked for a `faster` or `slower` anywhere among all figures and loads. Then one
side is truly 10 % faster, and the number of starts is the one that is recommended. The simulated scatter of starts is
normal, heavy-tailed, lopsided or drifting; nothing here measures an engine, so all of it may run on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from enginebay.loadtest.schedule import rounds
from enginebay.statistics.effect import paired_effect, unpaired_effect
from enginebay.statistics.power import starts_to_differ
from enginebay.verdict.comparison.family import LEVEL, Answer, answer_all
from enginebay.verdict.comparison.figures import FIGURES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Logs = NDArray[np.float64]
"""(starts, loads, figures): logarithms of what was measured."""
Scatter = Callable[[np.random.Generator, int], Logs]

NOISE, DIFFERENCE, MARGIN = 0.05, 0.10, 0.05
NUM_LOADS, NUM_FIGURES = 3, len(FIGURES)
SHARED_RATIO = 0.5
"""Of a start's luck: how much of it all its figures have in common."""


def main() -> None:
    arguments = _arguments()
    began_at = time.monotonic()
    report: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_comparisons": arguments.comparisons,
        "level": LEVEL,
        "margin": MARGIN,
        "noise": NOISE,
        "bars": {"family_wise": _bound(arguments.comparisons), "found": 0.8},
        "same_simulated": list(same_simulated(arguments.comparisons)),
        "same_recorded": same_recorded(arguments.starts, arguments.comparisons),
        "wrongly_equivalent": list(wrongly_equivalent(arguments.comparisons)),
        "found": list(found(arguments.comparisons)),
        "found_from_pilots": list(found_from_pilots(arguments.comparisons // 4)),
        "looked_twice": looked_twice(arguments.comparisons),
        "simpler_rules": list(simpler_rules(arguments.comparisons)),
    }
    report["bars_hold"] = _bars_hold(report)
    report["took_s"] = round(time.monotonic() - began_at, 1)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: report[key] for key in ("bars_hold", "took_s")}))


# ---------------------------------------------------------------- how starts scatter


def normal(rng: np.random.Generator, num_starts: int) -> Logs:
    shape = (num_starts, NUM_LOADS, NUM_FIGURES)
    shared = rng.normal(0, math.sqrt(SHARED_RATIO), (num_starts, 1, 1))
    return NOISE * (shared + rng.normal(0, math.sqrt(1 - SHARED_RATIO), shape))


def heavy_tailed(rng: np.random.Generator, num_starts: int) -> Logs:
    """Student's law with three degrees of freedom: now and then a start is far off."""
    return NOISE * rng.standard_t(3, (num_starts, NUM_LOADS, NUM_FIGURES)) / math.sqrt(3)


def lopsided(rng: np.random.Generator, num_starts: int) -> Logs:
    """One start in five is a fifth slower in everything: unlucky memory, a busy neighbour."""
    unlucky = rng.random((num_starts, 1, 1)) < 0.2
    return normal(rng, num_starts) / 2 + np.where(unlucky, math.log(0.8), 0.0)


SCATTERS: dict[str, Scatter] = {"normal": normal, "heavy-tailed": heavy_tailed, "lopsided": lopsided}


# ---------------------------------------------------------------- an engine against itself


def same_simulated(num_comparisons: int) -> Iterator[dict[str, Any]]:
    for name, scatter in SCATTERS.items():
        for num_starts in (3, 5, 8, 19):
            for is_paired in (True, False):
                drawn = _pairs_of_sides(scatter, num_starts, num_comparisons, seed=num_starts)
                yield _same(name, drawn, num_starts=num_starts, is_paired=is_paired)
        # A bootstrap of many figures takes its time: fewer comparisons, with a wider bound.
        drawn = _pairs_of_sides(scatter, 24, max(50, num_comparisons // 5), seed=24)
        yield _same(name, drawn, num_starts=24, is_paired=True)
    yield _same("drifting", _drifting(8, num_comparisons), num_starts=8, is_paired=True)


def _pairs_of_sides(
    scatter: Scatter, num_starts: int, num_comparisons: int, *, seed: int
) -> Iterator[tuple[Logs, Logs]]:
    rng = np.random.default_rng(seed)
    for _ in range(num_comparisons):
        yield scatter(rng, num_starts), scatter(rng, num_starts)


def _drifting(num_starts: int, num_comparisons: int) -> Iterator[tuple[Logs, Logs]]:
    """The machine gets 3 % slower from each start to the next; A B B A shares that out."""
    order = list(rounds(["a", "b"], num_starts))
    slope = {label: np.array([place for place, (_, one) in enumerate(order) if one == label]) for label in "ab"}
    rng = np.random.default_rng(1)
    for _ in range(num_comparisons):
        yield tuple(normal(rng, num_starts) - 0.03 * slope[label][:, None, None] for label in "ab")  # type: ignore[misc]


def same_recorded(path: Path, num_comparisons: int) -> list[dict[str, Any]] | None:
    """Starts of one engine dealt out to two sides by chance, and neighbours in turns as a session has them."""
    if not path.exists():
        return None
    recorded = json.loads(path.read_text())
    logs = np.log(np.asarray(recorded["starts"], dtype=np.float64))
    rows = []
    for num_starts in (3, 5, 8):
        if 2 * num_starts > len(logs):
            continue
        by_chance = _dealt(logs, num_starts, num_comparisons)
        rows.append(_same("recorded, dealt by chance", by_chance, num_starts=num_starts, is_paired=True))
        by_chance = _dealt(logs, num_starts, num_comparisons)
        rows.append(_same("recorded, dealt by chance", by_chance, num_starts=num_starts, is_paired=False))
        rows.append(_same("recorded, in turns", _in_turns(logs, num_starts), num_starts=num_starts, is_paired=True))
    return rows


def _dealt(logs: Logs, num_starts: int, num_comparisons: int) -> Iterator[tuple[Logs, Logs]]:
    rng = np.random.default_rng(num_starts)
    for _ in range(num_comparisons):
        chosen = rng.permutation(len(logs))[: 2 * num_starts]
        yield logs[chosen[:num_starts]], logs[chosen[num_starts:]]


def _in_turns(logs: Logs, num_starts: int) -> Iterator[tuple[Logs, Logs]]:
    """Every stretch of the recording, labelled A B B A."""
    labels = np.array([label for _, label in rounds("ab", num_starts)])
    for first in range(len(logs) - 2 * num_starts + 1):
        stretch = logs[first : first + 2 * num_starts]
        yield stretch[labels == "a"], stretch[labels == "b"]


def _same(name: str, drawn: Iterator[tuple[Logs, Logs]], *, num_starts: int, is_paired: bool) -> dict[str, Any]:
    outcomes = [_outcomes(first, second, is_paired=is_paired) for first, second in drawn]
    wrong = sum(bool(found & {"faster", "slower"}) for found in outcomes)
    row = {
        "scatter": name,
        "num_starts": num_starts,
        "paired": is_paired,
        "num_comparisons": len(outcomes),
        "wrong": wrong,
        "wrong_ratio": round(wrong / len(outcomes), 4),
        "bound": _bound(len(outcomes)),
    }
    print(row, flush=True)
    return row


# ---------------------------------------------------------------- sides that differ


def wrongly_equivalent(num_comparisons: int) -> Iterator[dict[str, Any]]:
    """The true ratio lies on the margin: whoever says `equivalent` anywhere is wrong."""
    for num_starts in (3, 8, 19):
        rng = np.random.default_rng(num_starts)
        drawn = [
            (normal(rng, num_starts), normal(rng, num_starts) + math.log1p(MARGIN)) for _ in range(num_comparisons)
        ]
        wrong = sum("equivalent" in _outcomes(*sides, is_paired=True) for sides in drawn)
        yield {"num_starts": num_starts, "wrong_ratio": wrong / num_comparisons, "bound": _bound(num_comparisons)}


def found(num_comparisons: int) -> Iterator[dict[str, Any]]:
    """A true 10 %, with the number of starts that is recommended for so many questions."""
    for num_loads, num_figures in ((1, 1), (1, NUM_FIGURES), (NUM_LOADS, NUM_FIGURES)):
        num_starts = _recommended(num_loads * num_figures)
        rng = np.random.default_rng(num_loads * num_figures)
        num_found = num_right_way = 0
        for _ in range(num_comparisons):
            first, second = (normal(rng, num_starts)[:, :num_loads, :num_figures] for _ in range(2))
            answers = _answers(first, second + math.log1p(DIFFERENCE), is_paired=True)
            num_found += answers[0, FIGURES[0]].outcome == "faster"
            num_right_way += "slower" not in {answer.outcome for answer in answers.values()}
        row = {
            "num_questions": num_loads * num_figures,
            "recommended_starts": num_starts,
            "found_ratio": num_found / num_comparisons,
            "never_the_wrong_way_ratio": num_right_way / num_comparisons,
        }
        print(row, flush=True)
        yield row


def found_from_pilots(num_comparisons: int) -> Iterator[dict[str, Any]]:
    """Nobody knows the noise: a few starts estimate it, so many are recommended, and a fresh comparison has them."""
    for num_pilots in (3, 5, 8):
        rng = np.random.default_rng(num_pilots)
        numbers, num_found = [], 0
        for _ in range(num_comparisons):
            pilot = (normal(rng, num_pilots) - normal(rng, num_pilots))[:, 0, 0]
            number = starts_to_differ(
                math.log1p(DIFFERENCE), float(pilot.std(ddof=1)), level=LEVEL, spread_degrees_of_freedom=num_pilots - 1
            )
            numbers.append(number or 1000)
            fresh = (normal(rng, numbers[-1]) - normal(rng, numbers[-1]))[:, 0, 0] + math.log1p(DIFFERENCE)
            num_found += bool(stats.ttest_1samp(fresh, 0).pvalue <= LEVEL)
        row = {
            "num_pilots": num_pilots,
            "recommended_starts": {f"p{percent}": float(np.percentile(numbers, percent)) for percent in (10, 50, 90)},
            "found_ratio": num_found / num_comparisons,
        }
        print(row, flush=True)
        yield row


def looked_twice(num_comparisons: int) -> dict[str, Any]:
    """Five starts; where they decide nothing, as many are added as would, and all are judged again: a second chance to
    be wrong. One figure of an engine against itself."""
    rng = np.random.default_rng(2)
    num_wrong = {"once": 0, "twice": 0, "fresh": 0}
    for _ in range(num_comparisons):
        differences = _differences(rng, 5)
        effect = paired_effect(differences)
        is_wrong = effect.p_equal() <= LEVEL
        num_wrong["once"] += is_wrong
        enough = starts_to_differ(effect.estimate, effect.spread, level=LEVEL, spread_degrees_of_freedom=4) or 60
        more = _differences(rng, min(60, enough) - 5) if enough > 5 else []
        num_wrong["twice"] += is_wrong or _is_different([*differences, *more])
        num_wrong["fresh"] += _is_different(_differences(rng, max(3, min(60, enough))))
    return {key: value / num_comparisons for key, value in num_wrong.items()}


def simpler_rules(num_comparisons: int) -> Iterator[dict[str, Any]]:
    """What other rules say of an engine against itself, one figure alone: why none of them is used."""
    rng = np.random.default_rng(3)
    for num_starts in (3, 5, 10, 20):
        wrong = {"t-interval": 0, "percentile bootstrap": 0, "our rule": 0}
        for _ in range(num_comparisons):
            differences = np.asarray(_differences(rng, num_starts))
            wrong["t-interval"] += bool(stats.ttest_1samp(differences, 0).pvalue <= LEVEL)
            resampled = differences[rng.integers(0, num_starts, (999, num_starts))].mean(axis=1)
            low, high = np.percentile(resampled, (2.5, 97.5))
            wrong["percentile bootstrap"] += not low <= 0 <= high
            wrong["our rule"] += _is_different(list(differences))
        yield {"num_starts": num_starts} | {rule: count / num_comparisons for rule, count in wrong.items()}
    yield {"every request a unit": _requests_as_units(num_comparisons)}


def _requests_as_units(num_comparisons: int) -> float:
    """Three starts of a hundred requests each, judged as three hundred values a side."""
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(num_comparisons):
        sides = [(rng.normal(0, NOISE, (3, 1)) + rng.normal(0, 0.2, (3, 100))).ravel() for _ in range(2)]
        wrong += bool(stats.ttest_ind(*sides, equal_var=False).pvalue <= LEVEL)
    return wrong / num_comparisons


# ---------------------------------------------------------------- the product's own judgement


def _outcomes(first: Logs, second: Logs, *, is_paired: bool) -> set[str]:
    return {answer.outcome for answer in _answers(first, second, is_paired=is_paired).values()}


def _answers(first: Logs, second: Logs, *, is_paired: bool) -> dict[tuple[int, Any], Answer]:
    _, num_loads, num_figures = first.shape
    effects = {}
    for load in range(num_loads):
        for number, figure in enumerate(FIGURES[:num_figures]):
            one, other = first[:, load, number], second[:, load, number]
            if np.isfinite(one).all() and np.isfinite(other).all():
                effects[load, figure] = (
                    paired_effect(other - one) if is_paired else unpaired_effect(one, other)  # type: ignore[arg-type]
                )
    return answer_all(effects, margin=MARGIN)


def _recommended(num_questions: int) -> int:
    number = starts_to_differ(math.log1p(DIFFERENCE), NOISE * math.sqrt(2), level=LEVEL / num_questions)
    assert number is not None
    return number


def _differences(rng: np.random.Generator, num_starts: int) -> list[float]:
    return list(rng.normal(0, NOISE * math.sqrt(2), num_starts))


def _is_different(differences: Sequence[float]) -> bool:
    return paired_effect(differences, num_resamples=1999).p_equal() <= LEVEL


def _bound(num_comparisons: int) -> float:
    """5 % and what chance may add to it in so many comparisons (99.5 %)."""
    return float(stats.binom.ppf(0.995, num_comparisons, LEVEL)) / num_comparisons


def _bars_hold(report: dict[str, Any]) -> dict[str, bool]:
    same = [*report["same_simulated"], *(report["same_recorded"] or [])]
    # Stretches of a recording overlap, so that they are not so many comparisons as their number: told, not judged.
    judged = [row for row in same if row["scatter"] != "recorded, in turns"]
    return {
        "family_wise": all(row["wrong_ratio"] <= row["bound"] for row in judged),
        "wrongly_equivalent": all(row["wrong_ratio"] <= row["bound"] for row in report["wrongly_equivalent"]),
        "found": all(row["found_ratio"] >= 0.8 for row in report["found"]),
        "recorded": report["same_recorded"] is not None,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--starts", type=Path, default=RESULTS / "verdict_starts.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "verdict_error_rates.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
