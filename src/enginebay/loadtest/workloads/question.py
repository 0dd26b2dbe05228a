"""What a workload makes and a plan is made of: questions, alone or as the turns of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import PlannedMessage
from enginebay.loadtest.tokenizer import PromptTokenizer
from enginebay.loadtest.workloads.prompts import PromptWriter

PromptForm = Literal["text", "token_ids", "chat"]
"""Raw text; token ids, of chats too; messages to which the engine applies the model's chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    form: PromptForm
    prompt_ids: tuple[int, ...]
    """What the engine computes on, whatever is sent."""
    text: str | None = None
    messages: tuple[PlannedMessage, ...] = ()
    max_tokens: int
    think_time_s: float = 0.0
    """After the answer before, in a conversation."""


Session = Sequence[Question]
"""One question, or the turns of a conversation in their order."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one load. Endless, or as long as the data last."""

    warmup: Iterator[Session]
    sessions: Iterator[Session]


class OpenWorkload(Protocol):
    def traffic(self) -> Traffic:
        """For the next load of the plan: prompts of its own, lengths and structure as in every load."""
        ...

    def __str__(self) -> str:
        """In words, for the report: what is asked, what was left out."""
        ...


class Workload(Protocol):
    def open(self, desk: Desk, *, seed: int) -> OpenWorkload:
        """Read what there is to read. Raises LoadTestError."""
        ...


class Desk:
    """Where prompts of one plan are written: one tokenizer, one writer, so that no two begin alike by chance."""

    def __init__(self, tokenizer: PromptTokenizer, *, form: PromptForm, seed: int) -> None:
        self.tokenizer = tokenizer
        self.form: PromptForm = form
        self.writer = PromptWriter(tokenizer, seed=seed)

    def write(self, num_tokens: int, *, max_tokens: int) -> Question:
        """A new prompt of exactly `num_tokens`; of a chat, with all that the template adds."""
        if self.form == "chat":
            text, ids = self.writer.write_inside(num_tokens, self._chat_ids)
            messages = (PlannedMessage(role="user", content=text),)
            return Question(form="chat", messages=messages, prompt_ids=ids, max_tokens=max_tokens)
        text, ids = self.writer.write(num_tokens)
        return Question(form=self.form, text=text, prompt_ids=ids, max_tokens=max_tokens)

    def of_text(self, text: str, *, max_tokens: int) -> Question:
        """Raises LoadTestError for a text without tokens."""
        if self.form == "chat":
            return self.of_messages((PlannedMessage(role="user", content=text),), max_tokens=max_tokens)
        ids = tuple(self.tokenizer.encode(text))
        if not ids:
            raise LoadTestError("a prompt is empty")
        return Question(form=self.form, text=text, prompt_ids=ids, max_tokens=max_tokens)

    def of_messages(
        self, messages: tuple[PlannedMessage, ...], *, max_tokens: int, think_time_s: float = 0.0
    ) -> Question:
        """As messages, or as the token ids that the template makes of them. Raises LoadTestError for raw text."""
        if self.form == "text":
            raise LoadTestError("messages cannot be sent as raw text: use prompt_form: chat, or token_ids")
        return Question(
            form=self.form,
            messages=messages,
            prompt_ids=tuple(self.tokenizer.encode_messages(messages)),
            max_tokens=max_tokens,
            think_time_s=think_time_s,
        )

    @property
    def fewest_tokens(self) -> int:
        """Of a raw prompt: the special tokens, and one of text."""
        return len(self.tokenizer.encode("")) + 1

    def _chat_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode_messages((PlannedMessage(role="user", content=text),))
