"""A trace as a workload: prompts of its lengths, which share beginnings as the trace's hash ids do.

A block of the trace becomes a passage of the corpus, the same wherever its id stands. What no id covers is written for
the request alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from enginebay.errors import LoadTestError
from enginebay.loadtest.traces.trace import Trace, TracedRequest
from enginebay.loadtest.workloads.question import Desk, Question, Session, Traffic

WARMUP_TOKENS = 64
"""Longest prompt and output of a warm-up: its lengths are the trace's, its prompts are nobody's."""


@dataclass(frozen=True, slots=True)
class TraceWorkload:
    trace: Trace

    def open(self, desk: Desk, *, seed: int) -> OpenTrace:
        if desk.form == "chat":
            raise LoadTestError("a trace has the lengths of whole prompts: use prompt_form: text, or token_ids")
        return OpenTrace(self.trace, desk, seed)


@dataclass(frozen=True, slots=True)
class OpenTrace:
    trace: Trace
    desk: Desk
    seed: int

    def __str__(self) -> str:
        trace = self.trace
        left_out = f", {trace.num_left_out} of its requests left out" if trace.num_left_out else ""
        blocks = f", beginnings shared by blocks of {trace.block_tokens} tokens" if trace.block_tokens else ""
        fewest = self.desk.fewest_tokens
        num_short = sum(request.num_input_tokens < fewest for request in trace.requests)
        lengthened = f", {num_short} prompts lengthened to {fewest} tokens, the fewest there are" if num_short else ""
        return f"prompts and outputs as long as in {trace.name}{blocks}{lengthened}{left_out}"

    def traffic(self) -> Traffic:
        return Traffic(warmup=self._warmup(), sessions=self._sessions())

    def _warmup(self) -> Iterator[Session]:
        rng = np.random.default_rng([self.seed, 2])
        while True:
            traced = self.trace.requests[int(rng.integers(len(self.trace.requests)))]
            max_tokens = min(traced.num_output_tokens, WARMUP_TOKENS)
            num_tokens = max(self.desk.fewest_tokens, min(traced.num_input_tokens, WARMUP_TOKENS))
            yield (self.desk.write(num_tokens, max_tokens=max_tokens),)

    def _sessions(self) -> Iterator[Session]:
        blocks = Blocks(self.desk, self.trace.block_tokens)
        for traced in self.trace.requests:
            yield (blocks.question(traced),)


@dataclass(frozen=True, slots=True)
class Block:
    text: str
    ids: tuple[int, ...]


@dataclass(slots=True)
class Blocks:
    """The passages of one load; another load has others, since it may be measured on the same start."""

    desk: Desk
    block_tokens: int | None
    known: dict[tuple[int, int], Block] = field(default_factory=dict[tuple[int, int], Block])
    """By hash id and length: the last block of a prompt may be a short one."""

    def question(self, traced: TracedRequest) -> Question:
        blocks = self._blocks_of(traced)
        text = "".join(block.text for block in blocks)
        ids = tuple(token_id for block in blocks for token_id in block.ids)
        if self.desk.form == "text" and tuple(self.desk.tokenizer.encode(text)) != ids:
            raise LoadTestError(
                f"this tokenizer joins words across blocks of {self.block_tokens} tokens: use prompt_form: token_ids"
            )
        return Question(form=self.desk.form, text=text, prompt_ids=ids, max_tokens=traced.num_output_tokens)

    def _blocks_of(self, traced: TracedRequest) -> list[Block]:
        size = self.block_tokens or traced.num_input_tokens
        blocks: list[Block] = []
        num_left = max(traced.num_input_tokens, self.desk.fewest_tokens)
        for hash_id in traced.hash_ids:
            num_tokens = min(size, num_left)
            if num_tokens:
                blocks.append(self._block(hash_id, num_tokens, is_first=not blocks))
            num_left -= num_tokens
        if num_left:
            blocks.append(self._written(num_left, is_first=not blocks))
        return blocks

    def _block(self, hash_id: int, num_tokens: int, *, is_first: bool) -> Block:
        key = (hash_id, num_tokens)
        if key not in self.known:
            self.known[key] = self._written(num_tokens, is_first=is_first)
        return self.known[key]

    def _written(self, num_tokens: int, *, is_first: bool) -> Block:
        """The first block of a prompt has its special tokens, too."""
        writer = self.desk.writer
        return Block(*(writer.write(num_tokens) if is_first else writer.write_inner(num_tokens)))
