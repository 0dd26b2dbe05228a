"""Token counts of one response: several choices, prompts that n choices share."""

from __future__ import annotations

import msgspec

from enginebay.types import GenerationChunk, Usage


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int


class UsageBody(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class UsageTally:
    """Reads the counts off the chunks of each choice. A prompt that n choices share counts once."""

    def __init__(self, *, num_choices: int = 1, choices_per_prompt: int = 1) -> None:
        self._usages = [Usage(0, 0)] * num_choices
        self._choices_per_prompt = choices_per_prompt

    def add(self, index: int, chunk: GenerationChunk) -> None:
        """The engine's own cumulative usage counts; before it comes, tokens are counted as they pass."""
        if chunk.usage is not None:
            self._usages[index] = chunk.usage
            return
        known = self._usages[index]
        num_prompt_tokens = known.num_prompt_tokens
        if chunk.prompt is not None:
            num_prompt_tokens = len(chunk.prompt.token_ids)
        num_new = chunk.num_tokens if chunk.num_tokens is not None else len(chunk.token_ids or ())
        self._usages[index] = Usage(num_prompt_tokens, known.num_output_tokens + num_new, known.num_cached_tokens)

    def of_choice(self, index: int) -> Usage:
        return self._usages[index]

    def of_choices(self) -> tuple[Usage, ...]:
        return tuple(self._usages)

    def total(self) -> Usage:
        if len(self._usages) == 1:
            return self._usages[0]
        prompts = self._usages[:: self._choices_per_prompt]
        cached = [usage.num_cached_tokens for usage in prompts if usage.num_cached_tokens is not None]
        return Usage(
            num_prompt_tokens=sum(usage.num_prompt_tokens for usage in prompts),
            num_output_tokens=sum(usage.num_output_tokens for usage in self._usages),
            num_cached_tokens=sum(cached) if cached else None,
            num_discarded_tokens=sum(usage.num_discarded_tokens for usage in self._usages),
        )


def usage_body(usage: Usage) -> UsageBody:
    cached = usage.num_cached_tokens
    return UsageBody(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_output_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached) if cached is not None else None,
    )


def usage_json(usage: Usage) -> bytes:
    """The same as `usage_body`, written by hand: it stands in every chunk of a stream with continuous usage."""
    prompt, output, cached = usage.num_prompt_tokens, usage.num_output_tokens, usage.num_cached_tokens
    details = b"null" if cached is None else b'{"cached_tokens":%d}' % cached
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":%b}' % (
        prompt,
        output,
        prompt + output,
        details,
    )
