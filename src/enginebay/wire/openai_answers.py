"""The JSON that servers of the OpenAI API answer with, as far as it is read. Unknown fields are ignored.

Pieces of a stream and whole answers share one form: a chat's text is in `delta` or in `message`.
"""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType


class CachedTokens(Struct, gc=False):
    cached_tokens: int | None = None


class UsageAnswer(Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: CachedTokens | None = None


class TopLogprob(Struct, gc=False):
    token: str
    logprob: float
    id: int | None = None
    """llama.cpp alone tells it."""


class ContentLogprob(Struct):
    token: str
    logprob: float
    id: int | None = None
    top_logprobs: list[TopLogprob] | None = None


class LogprobsAnswer(Struct):
    """Parallel lists for a completion; `content` for a chat, and for a completion of llama.cpp."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[ContentLogprob] | None = None


class PromptTokenLogprob(Struct, gc=False):
    logprob: float
    decoded_token: str | None = None


PromptLogprobs = list[dict[int, PromptTokenLogprob] | None]


class FunctionDelta(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCallAnswer(Struct):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class ChatContent(Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The older name of `reasoning`."""
    tool_calls: list[ToolCallAnswer] | None = None


NO_CONTENT = ChatContent()


class Choice(Struct, kw_only=True):
    index: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: LogprobsAnswer | None = None


class CompletionChoice(Choice, kw_only=True):
    text: str | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class ChatChoice(Choice, kw_only=True):
    delta: ChatContent | None = None
    message: ChatContent | None = None


class Answer(Struct, kw_only=True):
    usage: UsageAnswer | None = None
    error: Raw | UnsetType = UNSET
    """An error in the middle of a stream of status 200."""


class CompletionAnswer(Answer, kw_only=True):
    choices: list[CompletionChoice] = []


class ChatAnswer(Answer, kw_only=True):
    choices: list[ChatChoice] = []
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_logprobs: PromptLogprobs | None = None
