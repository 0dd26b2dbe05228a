"""What requests ask: real text of our own, cut to exact numbers of tokens, each prompt with a beginning of its own.

A prompt begins with a few words that no other prompt of the plan begins with, so that a prefix cache can give nothing
to one run that it learnt from another, or from the warm-up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import Literal

import numpy as np

from enginebay.errors import LoadTestError
from enginebay.loadtest.arrivals import constant_offsets, poisson_offsets
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedRequest
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.types import SamplingParams

MAX_ATTEMPTS = 200
"""Cuts tried for one prompt: a cut may fall where the shortened text is tokenised in another way."""

PromptForm = Literal["text", "token_ids"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformWorkload:
    """Input and output lengths drawn uniformly, both ends included."""

    num_requests: int
    min_input_tokens: int
    max_input_tokens: int
    min_output_tokens: int
    max_output_tokens: int
    num_warmup_requests: int = 0
    prompt_form: PromptForm = "text"

    def __str__(self) -> str:
        return (
            f"{self.num_requests} requests, {self.min_input_tokens} to {self.max_input_tokens} tokens in, "
            f"{self.min_output_tokens} to {self.max_output_tokens} out, uniform"
        )


def make_plan(
    workload: UniformWorkload,
    loads: tuple[Load, ...],
    *,
    model: str,
    sampling: SamplingParams,
    seed: int,
    tokenizer: TextTokenizer,
) -> Plan:
    """Every load gets the same lengths and arrivals of its own, and prompts that occur nowhere else in the plan.

    sampling: what all requests share; max_tokens and, unless it is greedy, seed are drawn for each.
    Raises LoadTestError for a load that the workload cannot make.
    """
    for load in loads:
        _demand_request_for_each_user(workload, load)
    prompts = PromptWriter(tokenizer, seed=seed)
    return Plan(
        model=model,
        workload=str(workload),
        seed=seed,
        loads=tuple(
            PlannedLoad(
                load=load,
                warmup=_warmup(workload, prompts, sampling=sampling, seed=seed),
                requests=_requests(workload, prompts, load=load, sampling=sampling, seed=seed),
            )
            for load in loads
        ),
    )


def _demand_request_for_each_user(workload: UniformWorkload, load: Load) -> None:
    """Fewer requests than users would be a smaller load than its name says."""
    if load.users is not None and workload.num_requests < load.users:
        raise LoadTestError(
            f"{load} need at least {load.users} requests, and there are {workload.num_requests}: "
            "ask for more requests or fewer users"
        )


def _requests(
    workload: UniformWorkload, prompts: PromptWriter, *, load: Load, sampling: SamplingParams, seed: int
) -> tuple[PlannedRequest, ...]:
    lengths = np.random.default_rng([seed, 1])
    offsets = _offsets(load, workload.num_requests, seed=seed)
    return tuple(
        _request(index, workload, prompts, lengths=lengths, sampling=sampling, offset_s=offset)
        for index, offset in enumerate(offsets)
    )


def _warmup(
    workload: UniformWorkload, prompts: PromptWriter, *, sampling: SamplingParams, seed: int
) -> tuple[PlannedRequest, ...]:
    lengths = np.random.default_rng([seed, 2])
    return tuple(
        _request(index, workload, prompts, lengths=lengths, sampling=sampling, offset_s=None)
        for index in range(workload.num_warmup_requests)
    )


def _offsets(load: Load, num_requests: int, *, seed: int) -> list[float] | list[None]:
    if load.rate is None:
        return [None] * num_requests
    if load.arrivals == "constant":
        return constant_offsets(num_requests, load.rate)
    return poisson_offsets(num_requests, load.rate, seed=seed)


def _request(
    index: int,
    workload: UniformWorkload,
    prompts: PromptWriter,
    *,
    lengths: np.random.Generator,
    sampling: SamplingParams,
    offset_s: float | None,
) -> PlannedRequest:
    num_input = int(lengths.integers(workload.min_input_tokens, workload.max_input_tokens, endpoint=True))
    num_output = int(lengths.integers(workload.min_output_tokens, workload.max_output_tokens, endpoint=True))
    request_seed = int(lengths.integers(2**31))
    text, token_ids = prompts.write(num_input)
    is_text = workload.prompt_form == "text"
    return PlannedRequest(
        index=index,
        text=text if is_text else None,
        token_ids=None if is_text else token_ids,
        num_prompt_tokens=num_input,
        offset_s=offset_s,
        sampling=_with_length(sampling, max_tokens=num_output, seed=request_seed),
    )


def _with_length(sampling: SamplingParams, *, max_tokens: int, seed: int) -> SamplingParams:
    """Greedy sampling draws nothing: without a seed it also runs on engines that take none."""
    return replace(sampling, max_tokens=max_tokens, seed=None if sampling.temperature == 0 else seed)


class PromptWriter:
    """Writes prompts of exact length from the corpus; no two of one writer begin with the same two words.

    With the vocabulary of a real model not even the first token is shared by the first few hundred.
    """

    def __init__(self, tokenizer: TextTokenizer, *, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = np.random.default_rng([seed, 0])
        self._corpus = read_corpus()
        self._num_written = 0

    def write(self, num_tokens: int) -> tuple[str, tuple[int, ...]]:
        """Text and its token ids; encoding the text again gives exactly `num_tokens`."""
        beginning = self._next_beginning()
        for _ in range(MAX_ATTEMPTS):
            text = self._cut(beginning, num_tokens)
            token_ids = self._tokenizer.encode(text)
            if len(token_ids) == num_tokens:
                return text, tuple(token_ids)
        raise LoadTestError(
            f"no prompt of exactly {num_tokens} tokens could be cut from the corpus in {MAX_ATTEMPTS} attempts; "
            "ask for longer inputs or use prompt_form: token_ids"
        )

    def _cut(self, beginning: str, num_tokens: int) -> str:
        num_plain = num_tokens - len(self._tokenizer.encode(""))
        # Words are several characters and tokens rarely more than six: enough text, then cut by token.
        body = self._passage(8 * num_tokens + 64)
        token_ids = self._tokenizer.encode_plain(f"{beginning} {body}")
        return self._tokenizer.decode(token_ids[:num_plain])

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
        of_first_token = {self._tokenizer.encode_plain(word)[0]: word for word in words}
        return sorted(words, key=lambda word: of_first_token[self._tokenizer.encode_plain(word)[0]] != word)


def read_corpus() -> str:
    folder = resources.files("enginebay.loadtest") / "corpus"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name)
    return "\n\n".join(file.read_text(encoding="utf-8").strip() for file in files)
