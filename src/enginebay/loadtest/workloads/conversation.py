"""Conversations of several turns, written from the corpus, with time to think between them.

The history of a turn holds answers from the corpus and never what an engine said: so every engine is asked the same,
and its outputs can't change the load. What an engine keeps in its prefix cache of its own answers is of no use to it
then: the next turn shares the prompt before it, and the recorded answer is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from enginebay.loadtest.plan import PlannedMessage
from enginebay.loadtest.workloads.lengths import Lengths
from enginebay.loadtest.workloads.question import Desk, Question, Session, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkTime:
    """From the end of an answer to the next question: log-normal, or always `mean_s` where `std_s` is 0."""

    mean_s: float
    std_s: float = 0.0

    def draw(self, rng: np.random.Generator) -> float:
        if self.std_s == 0 or self.mean_s == 0:
            return self.mean_s
        variance = math.log1p((self.std_s / self.mean_s) ** 2)
        return float(rng.lognormal(math.log(self.mean_s) - variance / 2, math.sqrt(variance)))

    def __str__(self) -> str:
        return f"{self.mean_s:g} s" if self.std_s == 0 else f"{self.mean_s:g} ± {self.std_s:g} s"


NO_THINKING = ThinkTime(mean_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationWorkload:
    """input_tokens: of each question by itself. output_tokens: of each answer, the one asked for and the recorded."""

    num_turns: Lengths
    input_tokens: Lengths
    output_tokens: Lengths
    system_tokens: int = 0
    """Of a system message that all conversations of a load share; 0 is none."""
    think_time: ThinkTime = NO_THINKING

    def open(self, desk: Desk, *, seed: int) -> OpenConversations:
        return OpenConversations(self, desk, seed)


@dataclass(frozen=True, slots=True)
class OpenConversations:
    workload: ConversationWorkload
    desk: Desk
    seed: int

    def __str__(self) -> str:
        workload = self.workload
        system = f"a system message of {workload.system_tokens} tokens, " if workload.system_tokens else ""
        return (
            f"conversations of {workload.num_turns} turns, {system}{workload.input_tokens} tokens in each question, "
            f"{workload.output_tokens} in each answer, {workload.think_time} to think; recorded answers as history"
        )

    def traffic(self) -> Traffic:
        system = self._messages("system", self.workload.system_tokens) if self.workload.system_tokens else ()
        return Traffic(
            warmup=self._warmup(system, np.random.default_rng([self.seed, 2])),
            sessions=self._conversations(system, np.random.default_rng([self.seed, 1])),
        )

    def _warmup(self, system: tuple[PlannedMessage, ...], rng: np.random.Generator) -> Iterator[Session]:
        """First turns alone: nobody thinks while an engine warms up."""
        for conversation in self._conversations(system, rng):
            yield conversation[:1]

    def _conversations(self, system: tuple[PlannedMessage, ...], rng: np.random.Generator) -> Iterator[Session]:
        while True:
            yield tuple(self._turns(system, rng, num_turns=self.workload.num_turns.draw(rng)))

    def _turns(
        self, messages: tuple[PlannedMessage, ...], rng: np.random.Generator, *, num_turns: int
    ) -> Iterator[Question]:
        for turn in range(num_turns):
            messages += self._messages("user", self.workload.input_tokens.draw(rng))
            num_answer = self.workload.output_tokens.draw(rng)
            think_time_s = self.workload.think_time.draw(rng) if turn else 0.0
            yield self.desk.of_messages(messages, max_tokens=num_answer, think_time_s=think_time_s)
            messages += self._messages("assistant", num_answer)

    def _messages(self, role: str, num_tokens: int) -> tuple[PlannedMessage, ...]:
        text, _ = self.desk.writer.write_inside(num_tokens, self.desk.tokenizer.encode_plain)
        return (PlannedMessage(role=role, content=text),)
