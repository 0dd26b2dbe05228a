"""Whether the engine had seen the prompts before: then it was spared work that the plan says it does."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.records import Record
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

MAX_CONTAMINATION_RATIO = 0.01
GRANTED_TOKENS = 2
"""Of each prompt: a begin-of-sequence, a first word that happens to be another's too."""

PREFIX_CACHE = Reason(
    code="prefix_cache",
    meaning="The engine took more of the prompts from its prefix cache than they share by plan: it knew them from "
    "the warm-up, from an earlier run, or from somebody else.",
    bound=f"cached tokens beyond what the plan shares, and beyond {GRANTED_TOKENS} in each prompt, are at most "
    f"{MAX_CONTAMINATION_RATIO:.0%} of the prompt tokens; looked at in the engine's own counters and in the usage of "
    "each answer",
    remedy="Change `bench.seed`, or start the engine anew; an engine that runs already may be used by others.",
)


def prompts_unknown(evidence: Evidence) -> Iterator[Finding]:
    of_usage, of_counters = _from_usage(evidence), _from_counters(evidence)
    if of_usage is None and of_counters is None:
        if evidence.told_settings.get("enable_prefix_caching") is not False:
            yield PREFIX_CACHE.not_looked("the engine tells nothing of its prefix cache")
        return
    num_prompt_tokens = sum(_num_prompt_tokens(record) for record in evidence.records)
    bound = MAX_CONTAMINATION_RATIO * num_prompt_tokens
    for surplus, source in ((of_usage, "the usage of the answers"), (of_counters, "the engine's counters")):
        if surplus is not None and surplus > bound:
            yield PREFIX_CACHE.found(
                f"{surplus:.0f} of {num_prompt_tokens} prompt tokens came from the prefix cache beyond what the "
                f"workload shares, by {source}; the bound is {MAX_CONTAMINATION_RATIO:.0%}"
            )
            return


def _from_usage(evidence: Evidence) -> float | None:
    told = [record for record in evidence.finished if record.num_cached_tokens is not None]
    if not told:
        return None
    return sum(max(0, (record.num_cached_tokens or 0) - _num_granted(evidence, record)) for record in told)


def _from_counters(evidence: Evidence) -> float | None:
    """Over the run: what was read right before it is subtracted."""
    hits = [sample.num_prefix_cache_hits for sample in evidence.samples if sample.num_prefix_cache_hits is not None]
    if len(hits) < 2:
        return None
    granted = sum(_num_granted(evidence, record) for record in evidence.records)
    return max(0.0, hits[-1] - hits[0] - granted - _num_recomputed(evidence))


def _num_recomputed(evidence: Evidence) -> float:
    """A request that was put back finds its own blocks when it comes again."""
    told = [sample.num_preemptions for sample in evidence.samples if sample.num_preemptions is not None]
    num_preemptions = max(0.0, told[-1] - told[0]) if told else 0.0
    longest = max((_num_prompt_tokens(record) + record.max_tokens for record in evidence.records), default=0)
    return num_preemptions * longest


def _num_granted(evidence: Evidence, record: Record) -> int:
    planned = evidence.planned.get(record.index)
    return GRANTED_TOKENS + (planned.num_shared_tokens if planned is not None else 0)


def _num_prompt_tokens(record: Record) -> int:
    return record.num_planned_prompt_tokens if record.num_prompt_tokens is None else record.num_prompt_tokens
