"""Prompts out of a file: any JSONL or CSV with named fields, or conversations in ShareGPT's form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import PlannedMessage
from enginebay.loadtest.workloads.conversation import NO_THINKING, ThinkTime
from enginebay.loadtest.workloads.lengths import Lengths
from enginebay.loadtest.workloads.question import Desk, Question, Session, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a file: a text, or messages of which each answer but the last is history."""

    place: str
    """File and line or number, for errors."""
    text: str | None = None
    messages: tuple[PlannedMessage, ...] = ()
    is_one_request: bool = False
    """The messages are what one request sends, up to its last question; else a conversation from its first one on."""
    answer: str | None = None
    """What was answered to `text`, where the file tells it."""
    num_output_tokens: int | None = None
    """Where the file tells it in a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetWorkload:
    """Entries in seeded order; each load takes the next ones, so that no load finds the prompts of another cached."""

    path: Path
    entries: tuple[Entry, ...]
    output_tokens: Lengths | None = None
    """None: as many as the recorded answer has."""
    all_turns: bool = False
    """Whole conversations, with the recorded answers as history; else the first question alone."""
    think_time: ThinkTime = NO_THINKING
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    """Entries with longer ones are left out, and counted."""
    reuse: bool = False
    """Begin again when all entries were asked: later loads then find earlier prompts in a prefix cache."""

    def open(self, desk: Desk, *, seed: int) -> OpenDataset:
        return OpenDataset(self, desk, np.random.default_rng([seed, 1]))


@dataclass(slots=True)
class OpenDataset:
    workload: DatasetWorkload
    desk: Desk
    rng: np.random.Generator
    num_left_out: int = 0
    _sessions: Iterator[Session] = field(init=False)

    def __post_init__(self) -> None:
        self._sessions = self._endless() if self.workload.reuse else self._once()

    def __str__(self) -> str:
        workload = self.workload
        what = "conversations" if workload.all_turns else "first questions"
        outputs = "as long as recorded" if workload.output_tokens is None else f"{workload.output_tokens} tokens"
        left_out = f", {self.num_left_out} entries left out as too long" if self.num_left_out else ""
        thinking = f", {workload.think_time} to think, recorded answers as history" if workload.all_turns else ""
        return f"{what} of {workload.path.name}, outputs {outputs}{thinking}{left_out}"

    def traffic(self) -> Traffic:
        return Traffic(warmup=(session[:1] for session in self._sessions), sessions=self._sessions)

    def _endless(self) -> Iterator[Session]:
        while True:
            yield from self._once_through()

    def _once(self) -> Iterator[Session]:
        num_sessions = 0
        for session in self._once_through():
            num_sessions += 1
            yield session
        raise LoadTestError(
            f"{self.workload.path}: {num_sessions} of its entries can be asked, and the loads with their warm-ups need "
            "more: ask for fewer requests or loads, or set reuse: true, by which later ones may be answered from caches"
        )

    def _once_through(self) -> Iterator[Session]:
        num_found = 0
        for index in self.rng.permutation(len(self.workload.entries)):
            session = self._session(self.workload.entries[int(index)])
            num_found += bool(session)
            if session:
                yield session
        if not num_found:
            raise LoadTestError(f"{self.workload.path}: none of its {len(self.workload.entries)} entries can be asked")

    def _session(self, entry: Entry) -> Session:
        """Without what comes after a turn that is too long; empty if that is the first."""
        turns = list(self._questions(entry))
        if not self.workload.all_turns:
            turns = turns[-1:] if entry.is_one_request else turns[:1]
        session: list[Question] = []
        for turn in turns:
            question = turn()
            if not self._fits(question):
                self.num_left_out += not session
                break
            session.append(question)
        return tuple(session)

    def _fits(self, question: Question) -> bool:
        most_in, most_out = self.workload.max_input_tokens, self.workload.max_output_tokens
        is_short = most_in is None or len(question.prompt_ids) <= most_in
        return is_short and (most_out is None or question.max_tokens <= most_out)

    def _questions(self, entry: Entry) -> Iterator[Callable[[], Question]]:
        """Each is written when it is called for: most of a long conversation may not be wanted."""
        if entry.text is not None:
            yield partial(self._text, entry, entry.text, entry.answer)
        elif self.desk.form == "text" and not entry.is_one_request:
            first = next(message for message in entry.messages if message.role == "user")
            yield partial(self._text, entry, first.content, _answer_after(entry, first))
        else:
            for index, message in enumerate(entry.messages):
                if message.role == "user":
                    yield partial(self._turn, entry, index)

    def _text(self, entry: Entry, text: str, answer: str | None) -> Question:
        return self.desk.of_text(text, max_tokens=self._num_output(entry, answer))

    def _turn(self, entry: Entry, index: int) -> Question:
        is_later = self.workload.all_turns and self._is_later(entry, index)
        return self.desk.of_messages(
            entry.messages[: index + 1],
            max_tokens=self._num_output(entry, _answer_after(entry, entry.messages[index])),
            think_time_s=self.workload.think_time.draw(self.rng) if is_later else 0.0,
        )

    def _is_later(self, entry: Entry, index: int) -> bool:
        return any(message.role == "user" for message in entry.messages[:index])

    def _num_output(self, entry: Entry, answer: str | None) -> int:
        if self.workload.output_tokens is not None:
            return self.workload.output_tokens.draw(self.rng)
        if entry.num_output_tokens is not None:
            return entry.num_output_tokens
        if answer is None:
            raise LoadTestError(f"{entry.place}: no answer tells how long the output is: set output_tokens")
        return max(1, len(self.desk.tokenizer.encode_plain(answer)))


def _answer_after(entry: Entry, question: PlannedMessage) -> str | None:
    """The recorded answer to this very message."""
    following = _following(entry.messages, question)
    return following.content if following is not None and following.role == "assistant" else None


def _following(messages: Sequence[PlannedMessage], message: PlannedMessage) -> PlannedMessage | None:
    index = next(index for index, other in enumerate(messages) if other is message)
    return messages[index + 1] if index + 1 < len(messages) else None
