"""What the lesson claims for each technique, what this project wants of it, and what the figures say to both.

Nothing here is typed after measuring: a claim is a bound that was given before, and its verdict is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Groups = Mapping[str, Mapping[str, Any]]
Row = Mapping[str, Any]

HOLDS = "holds"
NOT_HERE = "does not hold here"
NOT_MEASURED = "not measured yet"
MIN_PAIRS = 10
"""With and without speculation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    technique: str
    """The group that it is measured in."""
    says: str
    at_least: float
    measure: Callable[[Groups], float | None]
    """None where a row that it needs is absent."""
    what: str
    """What the figure is of."""
    unit: str = "x"
    is_ours: bool = False
    """A bound that this project set itself, met or missed to the last digit."""
    flaw: Callable[[Groups], str | None] = lambda _: None
    """Why the figure does not count, whatever it is."""

    def verdict(self, groups: Groups) -> str:
        found = self.measure(groups)
        if found is None:
            return NOT_MEASURED
        if self.is_ours:
            met = "met" if found >= self.at_least else "**missed**"
            return f"{self.flaw(groups) or met}: {self.shown(found)}"
        return f"{HOLDS if self._is_as_told(found) else NOT_HERE}: {self.shown(found)}"

    def is_met(self, groups: Groups) -> bool | None:
        """To the last digit, and by a figure that counts; None where there is none."""
        found = self.measure(groups)
        return None if found is None else found >= self.at_least and self.flaw(groups) is None

    def _is_as_told(self, found: float) -> bool:
        """A figure that rounds to the claimed one, as exactly as the claim was told, is as claimed."""
        return round(found, 2 if self.at_least < 1.5 else 1) >= self.at_least

    @property
    def bound(self) -> str:
        return f"{self.at_least:.0%}" if self.unit == "%" else f"{self.at_least:.3g}x"

    def shown(self, found: float) -> str:
        return f"{found:.0%} {self.what}" if self.unit == "%" else f"{found:.2f}x {self.what}"


def row(groups: Groups, group: str, label: str, **where: object) -> Row | None:
    """The first that fits, if it was a valid run of a real engine."""
    rows = groups.get(group, {}).get("rows", ())
    fitting = (row for row in rows if row["label"] == label and all(row[key] == value for key, value in where.items()))
    found = next(fitting, None)
    return found if found is not None and found.get("is_valid", True) and not found.get("simulated") else None


def faster(group: str, label: str, base: str, **where: object) -> Callable[[Groups], float | None]:
    """Output tokens a second against those of `base`, under the same load."""

    def ratio(groups: Groups) -> float | None:
        return divided(speed(row(groups, group, label, **where)), speed(row(groups, group, base, **where)))

    return ratio


def smaller(group: str, label: str, base: str, key: str, **where: object) -> Callable[[Groups], float | None]:
    """How many times `base` has of it."""

    def ratio(groups: Groups) -> float | None:
        mine, theirs = row(groups, group, label, **where), row(groups, group, base, **where)
        return None if mine is None or theirs is None else divided(theirs[key], mine[key])

    return ratio


def cheaper(group: str, label: str, base: str, **where: object) -> Callable[[Groups], float | None]:
    return smaller(group, label, base, "price_per_million_tokens", **where)


def cached_ratio(groups: Groups) -> float | None:
    found = row(groups, "prefix_cache", "prefix-cache")
    return None if found is None else found["cached_ratio"]


def draft_ratio(label: str, prompts: str) -> Callable[[Groups], float | None]:
    """The median over pairs, which is what the measurement is made for."""

    def ratio(groups: Groups) -> float | None:
        found = row(groups, "speculation", label, prompts=prompts)
        return None if found is None or found["ratio"] is None else found["ratio"]["median"]

    return ratio


def pairs_flaw(label: str, prompts: str) -> Callable[[Groups], str | None]:
    """Of a figure of pairs: the answers of some differ, or they are too few."""

    def flaw(groups: Groups) -> str | None:
        found = row(groups, "speculation", label, prompts=prompts)
        if found is None:
            return None
        if found["differing_prompts"]:
            return f"**missed**, {len(found['differing_prompts'])} answers differ"
        return None if found["num_pairs"] >= MIN_PAIRS else f"not enough pairs, {found['num_pairs']} of {MIN_PAIRS}"

    return flaw


def faster_by_drafts(label: str, prompts: str, *, how: str) -> Claim:
    return Claim(
        technique="speculation",
        says=f"speculation: 2 to 3 times faster ({how})",
        at_least=2,
        measure=draft_ratio(label, prompts),
        what="the output tokens per second without speculation",
    )


def speed(found: Row | None) -> float | None:
    if found is None or found["output_tokens_per_s"] is None:
        return None
    return found["output_tokens_per_s"]["median"]


def divided(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


MANY, FEW = 192, 8
"""Users of configs/techniques/batch-size.yaml: a queue over 100, and none."""

CLAIMS = (
    Claim(
        technique="policies",
        says="static batching: 8 times naive",
        at_least=8,
        measure=faster("policies", "static", "naive"),
        what="the output tokens per second of naive",
    ),
    Claim(
        technique="policies",
        says="continuous batching: 10 to 20 times static",
        at_least=10,
        measure=faster("policies", "continuous", "static"),
        what="the output tokens per second of static",
    ),
    Claim(
        technique="prefix_cache",
        says="a shared system prompt computed once saves 20 to 30 % of the compute",
        at_least=0.2,
        measure=cached_ratio,
        what="of all token positions of this load were not computed",
        unit="%",
    ),
    faster_by_drafts("ngram", "copy", how="prompt lookup, answers copied from the prompt"),
    faster_by_drafts("ngram", "free", how="prompt lookup, answers not copied"),
    faster_by_drafts("first-layers", "free", how="a draft of the model's own first layers, answers not copied"),
    faster_by_drafts("int8-self-draft", "free", how="a draft by the model's int8 form, answers not copied"),
    Claim(
        technique="precision",
        says="int8: half the memory",
        at_least=2,
        measure=smaller("precision", "int8", "bfloat16", "weight_bytes", users=32),
        what="less memory for the weights",
    ),
    Claim(
        technique="precision",
        says="int8: twice the requests on one device",
        at_least=2,
        measure=faster("precision", "int8", "bfloat16", users=32),
        what="the output tokens per second of bfloat16 at 32 users",
    ),
    Claim(
        technique="precision",
        says="int8: half the cost",
        at_least=2,
        measure=cheaper("precision", "int8", "bfloat16", users=32),
        what="cheaper per token at 32 users",
    ),
    Claim(
        technique="batch_size",
        says="more than 100 waiting: a batch of 256 gives throughput",
        at_least=1.05,
        measure=faster("batch_size", "lesson-rule", "fixed-32", users=MANY),
        what="the output tokens per second of a fixed 32",
    ),
    Claim(
        technique="batch_size",
        says="else a batch of 32 keeps the latency",
        at_least=0.95,
        measure=smaller("batch_size", "lesson-rule", "fixed-32", "tpot_p50_s", users=FEW),
        what=f"is the TPOT p50 of a fixed 32 over the rule's, at {FEW} users",
    ),
    Claim(
        technique="prefix_cache",
        says="the first token after at most 0.15 times as long (p50)",
        at_least=1 / 0.15,
        measure=smaller("prefix_cache", "prefix-cache", "no-prefix-cache", "ttft_p50_s"),
        what="sooner",
        is_ours=True,
    ),
    Claim(
        technique="prefix_cache",
        says="at least 2.5 times the output tokens per second",
        at_least=2.5,
        measure=faster("prefix_cache", "prefix-cache", "no-prefix-cache"),
        what="those without",
        is_ours=True,
    ),
    Claim(
        technique="speculation",
        says="prompt lookup: at least 1.5 times the output tokens per second on answers that are copied",
        at_least=1.5,
        measure=draft_ratio("ngram", "copy"),
        what="those without",
        is_ours=True,
        flaw=pairs_flaw("ngram", "copy"),
    ),
    Claim(
        technique="speculation",
        says="prompt lookup: at most 5 % slower on answers that are not",
        at_least=0.95,
        measure=draft_ratio("ngram", "free"),
        what="the output tokens per second without",
        is_ours=True,
        flaw=pairs_flaw("ngram", "free"),
    ),
    Claim(
        technique="precision",
        says="int8: weights of at most 0.62 times the bytes of bfloat16",
        at_least=1 / 0.62,
        measure=smaller("precision", "int8", "bfloat16", "weight_bytes", users=32),
        what="less memory for the weights",
        is_ours=True,
    ),
)
