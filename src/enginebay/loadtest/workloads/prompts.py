"""Prompts of exact length, each with a beginning of its own.

A prompt begins with a few words that no other prompt of the plan begins with, so that a prefix cache can give nothing
to one run that it learnt from another, or from the warm-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import cycle

import numpy as np

from enginebay.errors import LoadTestError
from enginebay.loadtest.tokenizer import PromptTokenizer
from enginebay.loadtest.workloads.corpus import read_corpus

MAX_ATTEMPTS = 200
"""Cuts tried for one prompt: a cut may fall where the shortened text is tokenised in another way."""

SHIFTS = (0, 1, -1, 2, -2, 3, -3, 4)
"""Cut so many tokens further: where a text stands behind another, it may have some tokens more or fewer than alone."""
BEFORE = "word"
"""Any, to see how a text is tokenised behind it."""

Encode = Callable[[str], list[int]]


class PromptWriter:
    """Writes prompts of exact length from the corpus; no two of one writer begin with the same two words.

    With the vocabulary of a real model not even the first token is shared by the first few hundred.
    """

    def __init__(self, tokenizer: PromptTokenizer, *, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = np.random.default_rng([seed, 0])
        self._corpus = read_corpus()
        self._num_written = 0

    def write(self, num_tokens: int) -> tuple[str, tuple[int, ...]]:
        """Text and its token ids; encoding the text again gives exactly `num_tokens`."""
        return self.write_inside(num_tokens, self._tokenizer.encode)

    def write_inside(self, num_tokens: int, encode: Encode) -> tuple[str, tuple[int, ...]]:
        """The same where the text is part of something, such as a chat: `encode` gives the ids of the whole.

        Raises LoadTestError where what is around the text leaves no room for it.
        """
        num_plain = num_tokens - len(encode(""))
        if num_plain < 1:
            raise LoadTestError(
                f"a prompt of {num_tokens} tokens has no room for words: {len(encode(''))} are special tokens or the "
                "chat template's; ask for longer inputs"
            )
        written = ((text, tuple(encode(text))) for text in self._cuts(num_plain))
        return next(found for found in written if len(found[1]) == num_tokens)

    def write_after(self, before: str, before_ids: tuple[int, ...], num_tokens: int) -> tuple[str, tuple[int, ...]]:
        """`before` and `num_tokens` more, as one text and its ids, which begin with `before_ids`."""
        num_before = len(before_ids)
        texts = (before + text for text in self._cuts(num_tokens, lead=" "))
        written = ((text, tuple(self._tokenizer.encode(text))) for text in texts)
        fitting = (found for found in written if len(found[1]) == num_before + num_tokens)
        return next((text, ids) for text, ids in fitting if ids[:num_before] == before_ids)

    def write_inner(self, num_tokens: int) -> tuple[str, tuple[int, ...]]:
        """`num_tokens` that keep their ids behind any word, with no special tokens."""
        word = self._tokenizer.encode_plain(BEFORE)
        written = ((text, self._tokenizer.encode_plain(BEFORE + text)) for text in self._cuts(num_tokens, lead=" "))
        behind = ((text, tuple(ids[len(word) :])) for text, ids in written if ids[: len(word)] == word)
        return next(found for found in behind if len(found[1]) == num_tokens)

    def _cuts(self, num_tokens: int, *, lead: str = "") -> Iterator[str]:
        """Texts that should have `num_tokens`, all with one new beginning; raises LoadTestError after the last."""
        beginning = self._next_beginning()
        for _, shift in zip(range(MAX_ATTEMPTS), cycle(SHIFTS), strict=False):
            # Words are several characters and tokens rarely more than six: enough text, then cut by token.
            body = self._passage(8 * num_tokens + 64)
            text = self._tokenizer.cut(f"{lead}{beginning} {body}", max(1, num_tokens + shift))
            # Some tokenizers take the blank before a first word for their own, and give a text back without it.
            yield text if text.startswith(lead) else lead + text
        raise LoadTestError(
            f"no prompt of exactly {num_tokens} tokens could be cut from the corpus in {MAX_ATTEMPTS} attempts; "
            "ask for longer inputs or use prompt_form: token_ids"
        )

    def _passage(self, num_characters: int) -> str:
        starts = self._sentence_starts
        start = starts[int(self._rng.integers(len(starts)))]
        endless = self._corpus[start:] + self._corpus * (num_characters // len(self._corpus) + 1)
        return endless[:num_characters]

    @cached_property
    def _sentence_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer(r"[.?!:;]\s+", self._corpus))][:-1]

    def _next_beginning(self) -> str:
        """Two words, a pair of its own for each prompt; every word has been first once before one is first again."""
        words = self._first_words
        round_number, first = divmod(self._num_written, len(words))
        self._num_written += 1
        if round_number == len(words):
            raise LoadTestError(f"a plan has at most {len(words) ** 2} prompts with a beginning of their own")
        return f"{words[first]} {words[(first + round_number + 1) % len(words)]}"

    @cached_property
    def _first_words(self) -> list[str]:
        """The words of the corpus in seeded order; those that begin with a token of their own come first."""
        words = sorted({word.capitalize() for word in re.findall(r"[A-Za-z]{4,}", self._corpus)})
        self._rng.shuffle(words)
        of_beginning = {self._tokenizer.beginning(word): word for word in words}
        return sorted(words, key=lambda word: of_beginning[self._tokenizer.beginning(word)] != word)
