"""What may make one faster than the other: a row for each quantity, with who tells it and how it is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from enginebay.loadtest.metrics import Distribution
from enginebay.loadtest.result import Run
from enginebay.verdict.comparison.phrases import number, seconds, share


@dataclass(frozen=True, slots=True)
class Cause:
    quantity: str
    told_by: tuple[str, ...]
    """Paths into `Run`: what both sides tell comes first, like against like; of a distribution its mean."""
    shown: Callable[[float], str]
    sentence: str
    """With {first}, {second}, {first_value} and {second_value}."""

    @property
    def is_share(self) -> bool:
        return self.shown is share

    def value_between(self, runs: Sequence[Run]) -> Callable[[Run], float | None]:
        """runs: of both sides. By the first path that all of them tell; else of each run the first that it tells."""
        paths = [path for path in self.told_by if all(_told(run, path) is not None for run in runs)][:1] or self.told_by
        return lambda run: next((value for path in paths if (value := _told(run, path)) is not None), None)


def _told(run: Run, path: str) -> float | None:
    known: Distribution | float | None = attrgetter(path)(run)
    return known.mean if isinstance(known, Distribution) else known


CAUSES = (
    Cause("queue_s", ("engine.queue_s", "metrics.batch_wait_s"), seconds,
          "A request waited {second_value} for a place in the batch of {second}, {first_value} with {first}."),
    Cause("prefill_s", ("engine.prefill_s",), seconds,
          "From a place in the batch to the first token it took {second_value} with {second}, "
          "{first_value} with {first}."),
    Cause("decode_s", ("engine.decode_s", "metrics.tpot_s"), seconds,
          "Each further token took {second_value} with {second}, {first_value} with {first}."),
    Cause("batch_size", ("engine.batch_size",), number,
          "A step of {second} served {second_value} requests on average, one of {first} {first_value}."),
    Cause("tokens_per_step", ("engine.tokens_per_step",), number,
          "A step of {second} gave {second_value} tokens, one of {first} {first_value}."),
    Cause("tokens_per_draft", ("engine.tokens_per_draft",), number,
          "A draft gave {second_value} tokens with {second}, {first_value} with {first}."),
    Cause("acceptance_ratio", ("engine.acceptance_ratio",), share,
          "Of its drafted tokens {second} kept {second_value}, {first} {first_value}."),
    Cause("cache_hit_ratio", ("engine.cache_hit_ratio",), share,
          "{second} found {second_value} of the prompt tokens in its prefix cache, {first} {first_value}."),
    Cause("padding_ratio", ("metrics.padding_ratio",), share,
          "{second} computed {second_value} of all positions only to fill up a batch, {first} {first_value}."),
    Cause("idle_slot_ratio", ("metrics.idle_slot_ratio",), share,
          "In the batch of {second} {second_value} of the places did no work, {first_value} with {first}."),
    Cause("outside_model_ratio", ("metrics.outside_model_ratio",), share,
          "Outside the model {second} spent {second_value} of its busy time, {first} {first_value}."),
    Cause("num_preemptions", ("engine.num_preemptions",), number,
          "{second} put {second_value} requests of a run back for want of memory, {first} {first_value}."),
)  # fmt: skip
