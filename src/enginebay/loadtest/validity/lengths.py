"""Whether prompts and outputs had the lengths of the plan."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.metrics import output_tokens
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

PROMPT_LENGTHS = Reason(
    code="prompt_lengths",
    meaning="The engine read prompts of other lengths than planned: another tokenizer, a template, a cut.",
    bound="every prompt has exactly the planned number of tokens, where the engine tells it and the plan did not only "
    "estimate it",
    remedy="Check that `engine.tokenizer` is the model's own, and that nothing truncates prompts.",
)
OUTPUT_LENGTHS = Reason(
    code="output_lengths",
    meaning="Outputs whose length is part of the plan had another one.",
    bound="with `ignore_eos`, every output has exactly the planned number of tokens",
    remedy="The engine stops early in spite of `ignore_eos`: use a workload that is capped by its prompts.",
)


def lengths_as_planned(evidence: Evidence) -> Iterator[Finding]:
    finished = evidence.finished
    num_other_prompts = sum(
        record.num_prompt_tokens not in (None, record.num_planned_prompt_tokens) for record in finished
    )
    if num_other_prompts and evidence.planned_load.prompt_counts != "estimated":
        yield PROMPT_LENGTHS.found(f"{num_other_prompts} prompts had another number of tokens than planned")
    # Only where the end of sequence is ignored is the length of an output part of the plan.
    fixed = {planned.index for planned in evidence.planned_load.requests if planned.sampling.ignore_eos}
    num_other_outputs = sum(output_tokens(record) != record.max_tokens for record in finished if record.index in fixed)
    if num_other_outputs:
        yield OUTPUT_LENGTHS.found(f"{num_other_outputs} outputs had another number of tokens than planned")
