"""Prompts that begin alike, as those of an application with a system prompt do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from enginebay.loadtest.plan import PlannedMessage
from enginebay.loadtest.workloads.lengths import Lengths
from enginebay.loadtest.workloads.question import Desk, Question, Session, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefixWorkload:
    """`num_prefixes` beginnings of `prefix_tokens`, each followed by a part of its own of `input_tokens`.

    Each load has beginnings of its own. Its warm-up asks once with each of them, as far as it is long enough: what is
    measured is a cache in use, not one being filled.
    """

    prefix_tokens: int
    num_prefixes: int = 1
    input_tokens: Lengths
    output_tokens: Lengths

    def open(self, desk: Desk, *, seed: int) -> OpenSharedPrefix:
        return OpenSharedPrefix(self, desk, seed)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A text, or for chats a system message."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OpenSharedPrefix:
    workload: SharedPrefixWorkload
    desk: Desk
    seed: int

    def __str__(self) -> str:
        workload = self.workload
        beginnings = "one beginning" if workload.num_prefixes == 1 else f"{workload.num_prefixes} beginnings"
        return (
            f"{beginnings} of {workload.prefix_tokens} tokens shared, {workload.input_tokens} tokens of their own in, "
            f"{workload.output_tokens} out"
        )

    def traffic(self) -> Traffic:
        beginnings = [self._beginning() for _ in range(self.workload.num_prefixes)]
        return Traffic(warmup=self._warmup(beginnings), sessions=self._sessions(beginnings))

    def _warmup(self, beginnings: Sequence[Beginning]) -> Iterator[Session]:
        rng = np.random.default_rng([self.seed, 2])
        for beginning in cycle(beginnings):
            yield (self._question(beginning, rng),)

    def _sessions(self, beginnings: Sequence[Beginning]) -> Iterator[Session]:
        rng = np.random.default_rng([self.seed, 1])
        while True:
            yield (self._question(beginnings[int(rng.integers(len(beginnings)))], rng),)

    def _beginning(self) -> Beginning:
        desk, num_tokens = self.desk, self.workload.prefix_tokens
        # In a chat it is a message, so its length is counted without the special tokens of a prompt.
        encode = desk.tokenizer.encode_plain if desk.form == "chat" else desk.tokenizer.encode
        return Beginning(*desk.writer.write_inside(num_tokens, encode))

    def _question(self, beginning: Beginning, rng: np.random.Generator) -> Question:
        num_own, max_tokens = self.workload.input_tokens.draw(rng), self.workload.output_tokens.draw(rng)
        if self.desk.form == "chat":
            own, _ = self.desk.writer.write_inside(num_own, self.desk.tokenizer.encode_plain)
            messages = (
                PlannedMessage(role="system", content=beginning.text),
                PlannedMessage(role="user", content=own),
            )
            return self.desk.of_messages(messages, max_tokens=max_tokens)
        text, ids = self.desk.writer.write_after(beginning.text, beginning.ids, num_own)
        return Question(form=self.desk.form, text=text, prompt_ids=ids, max_tokens=max_tokens)
