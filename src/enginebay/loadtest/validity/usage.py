"""Whether the engine's counts of tokens can be believed: they are what throughput is made of.

A text encoded again need not give the tokens that it was made of. The last token may have no text (end of sequence) or
half a character; what the model wrote need not be how the tokenizer would have cut it. In 960 answers of three engines
with a real model the sums differed by 0.3 % and no answer by more than 7 tokens. A requested length that is reported
as a produced one, chunks counted as tokens, or a prompt counted in, differ by far more.
"""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.metrics import output_tokens
from enginebay.loadtest.records import Record
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

MAX_DISAGREEMENT_RATIO = 0.1
GRANTED_TOKENS = 2
"""Of each answer: an end of sequence without text, and a last character that was cut in two."""

USAGE_MISSING = Reason(
    code="usage_missing",
    meaning="Answers came without the engine's own count of tokens, so that nobody knows how many it made.",
    bound="every finished answer has one",
    remedy="Ask for a server that answers `stream_options.include_usage`; figures per token mean nothing without it.",
)
USAGE_DISAGREES = Reason(
    code="usage_disagrees",
    meaning="The engine counts other numbers of tokens than its text has when it is encoded again.",
    bound=f"the differences of all answers, beyond {GRANTED_TOKENS} tokens in each, add up to at most "
    f"{MAX_DISAGREEMENT_RATIO:.0%} of the tokens",
    remedy="Look at `num_output_tokens` beside `num_retokenized_tokens` in records.jsonl; check that "
    "`engine.tokenizer` is the model's own.",
)


def usage_told(evidence: Evidence) -> Iterator[Finding]:
    num_missing = evidence.metrics.num_missing_usage
    if num_missing:
        yield USAGE_MISSING.found(f"{num_missing} answers came without the engine's count of tokens")


def usage_agrees(evidence: Evidence) -> Iterator[Finding]:
    counted = [record for record in evidence.finished if record.num_retokenized_tokens is not None]
    if not counted:
        if evidence.finished:
            yield USAGE_DISAGREES.not_looked("no tokenizer of the model was at hand to count a second time")
        return
    num_tokens = sum(output_tokens(record) for record in counted)
    num_apart = sum(_num_apart(record) for record in counted)
    if num_apart > MAX_DISAGREEMENT_RATIO * num_tokens:
        yield USAGE_DISAGREES.found(
            f"the engine counted {num_tokens} tokens, its texts encoded again give "
            f"{sum(record.num_retokenized_tokens or 0 for record in counted)}; answers are {num_apart} apart beyond "
            f"{GRANTED_TOKENS} in each, the bound is {MAX_DISAGREEMENT_RATIO:.0%}"
        )


def _num_apart(record: Record) -> int:
    """Only what the engine says: where it says nothing, `usage_missing` tells."""
    if record.num_output_tokens is None or record.num_retokenized_tokens is None:
        return 0
    return max(0, abs(record.num_output_tokens - record.num_retokenized_tokens) - GRANTED_TOKENS)
