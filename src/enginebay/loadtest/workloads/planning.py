"""From a workload and its loads to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import msgspec
import numpy as np

from enginebay.errors import LoadTestError
from enginebay.loadtest.arrivals import offsets_of
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedRequest, PromptCounts
from enginebay.loadtest.tokenizer import PromptTokenizer
from enginebay.loadtest.workloads.question import Desk, OpenWorkload, PromptForm, Question, Session, Workload
from enginebay.loadtest.workloads.sharing import SentPrompts
from enginebay.types import SamplingParams

SEED_STREAM = 4
"""Of the seeds of requests; apart from those of prompts, lengths and arrivals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """How much of a workload each load asks."""

    num_requests: int | None
    """Turns of conversations count one each. None: until the arrivals end, of ramps, steps and traces."""
    num_warmup_requests: int = 0
    trace_offsets: Sequence[float] = ()
    """For the loads whose arrivals are a trace."""


def make_plan(
    workload: Workload,
    loads: tuple[Load, ...],
    *,
    quantity: Quantity,
    model: str,
    sampling: SamplingParams,
    seed: int,
    tokenizer: PromptTokenizer,
    form: PromptForm = "text",
    num_prompt_sets: int | None = None,
    prompt_counts: PromptCounts = "tokenizer",
) -> Plan:
    """Every load gets the same lengths, arrivals of its own, and prompts that no other load has.

    sampling: what all requests share; max_tokens and, unless it is greedy, seed are drawn for each. In an open loop
    the arrivals are those of conversations, where there are any: later turns wait for the answer before.
    num_prompt_sets: as many starts, each with prompts of its own; None: all starts share theirs.
    prompt_counts: what `tokenizer` is.
    Raises LoadTestError for a load that the workload cannot make.
    """
    desk = Desk(tokenizer, form=form, seed=seed)
    opened = workload.open(desk, seed=seed)
    planner = _Planner(opened, quantity, sampling, seed=seed)
    starts = (None,) if num_prompt_sets is None else tuple(range(num_prompt_sets))
    planned = tuple(
        msgspec.structs.replace(planner.plan(load), start_index=start_index, prompt_counts=prompt_counts)
        for start_index in starts
        for load in loads
    )
    words = _in_words(opened, planned, quantity, sampling) + PROMPT_COUNTS_IN_WORDS[prompt_counts]
    return Plan(model=model, workload=words, seed=seed, loads=planned)


PROMPT_COUNTS_IN_WORDS: Mapping[PromptCounts, str] = {
    "tokenizer": "",
    "server": ", prompts counted by the server",
    "estimated": ", lengths of prompts estimated",
}
"""What every reader of a plan sees of how its prompts were counted; the model's own tokenizer goes without saying."""


def _in_words(
    opened: OpenWorkload, planned: Sequence[PlannedLoad], quantity: Quantity, sampling: SamplingParams
) -> str:
    """After planning: a data set knows only then what it left out, and arrivals may end before the requests do."""
    most = quantity.num_requests
    at_most = "" if all(len(load.requests) == most for load in planned) else "at most "
    how_many = "" if most is None else f"{at_most}{most} requests, "
    outputs = "exact output lengths" if sampling.ignore_eos else "outputs end where the model ends"
    return f"{how_many}{opened}, {outputs}"


class _Planner:
    def __init__(self, opened: OpenWorkload, quantity: Quantity, sampling: SamplingParams, *, seed: int) -> None:
        self._opened, self._quantity, self._sampling, self._seed = opened, quantity, sampling, seed
        self._sent = SentPrompts()

    def plan(self, load: Load) -> PlannedLoad:
        traffic = self._opened.traffic()
        # Warm-up first: it is sent first, and what it shares is what it leaves in a cache.
        warmup = list(islice(traffic.warmup, self._quantity.num_warmup_requests))
        planned_warmup = self._requests(warmup, [None] * len(warmup))
        sessions, offsets = self._arriving(load, traffic.sessions)
        return PlannedLoad(load=load, warmup=planned_warmup, requests=self._requests(sessions, offsets))

    def _arriving(
        self, load: Load, sessions: Iterator[Session]
    ) -> tuple[list[Session], Sequence[float] | Sequence[None]]:
        num_requests = self._quantity.num_requests
        if load.is_closed:
            if num_requests is None:
                raise LoadTestError(f"{load}: have no end, so the number of requests must be given")
            taken = _until(num_requests, sessions)
            _demand_session_for_each_user(load, taken)
            return taken, [None] * len(taken)
        offsets = offsets_of(load, num_requests, seed=self._seed, trace_offsets=self._quantity.trace_offsets)
        # As many as arrive: prompts take long to write, and a data set has none to waste.
        arriving = islice(sessions, len(offsets))
        taken = list(arriving) if num_requests is None else list(_at_most(num_requests, arriving))
        if len(taken) < len(offsets) and _num_turns(taken) != num_requests:
            raise LoadTestError(f"{load}: {len(offsets)} requests arrive, and the workload has {_num_turns(taken)}")
        return taken, offsets[: len(taken)]

    def _requests(
        self, sessions: Sequence[Session], offsets: Sequence[float] | Sequence[None]
    ) -> tuple[PlannedRequest, ...]:
        seeds = np.random.default_rng([self._seed, SEED_STREAM])
        requests: list[PlannedRequest] = []
        for session, offset in zip(sessions, offsets, strict=True):
            for turn, question in enumerate(session):
                request = self._request(len(requests), question, request_seed=int(seeds.integers(2**31)))
                requests.append(_placed(request, offset_s=offset, is_later=turn > 0))
        return tuple(requests)

    def _request(self, index: int, question: Question, *, request_seed: int) -> PlannedRequest:
        is_ids = question.form == "token_ids"
        return PlannedRequest(
            index=index,
            text=question.text if question.form == "text" else None,
            token_ids=question.prompt_ids if is_ids else None,
            messages=question.messages if question.form == "chat" else None,
            num_prompt_tokens=len(question.prompt_ids),
            num_shared_tokens=self._sent.add(question.prompt_ids),
            think_time_s=question.think_time_s,
            sampling=_with_length(self._sampling, max_tokens=question.max_tokens, seed=request_seed),
        )


def _placed(request: PlannedRequest, *, offset_s: float | None, is_later: bool) -> PlannedRequest:
    if is_later:
        return msgspec.structs.replace(request, after=request.index - 1)
    return msgspec.structs.replace(request, offset_s=offset_s)


def _until(num_requests: int, sessions: Iterator[Session]) -> list[Session]:
    """Sessions with `num_requests` turns in all; the last one may be cut."""
    taken = list(_at_most(num_requests, sessions))
    if (num_taken := _num_turns(taken)) < num_requests:
        raise LoadTestError(f"the workload has {num_taken} requests, and {num_requests} are asked for")
    return taken


def _at_most(num_requests: int, sessions: Iterator[Session]) -> Iterator[Session]:
    num_left = num_requests
    while num_left > 0 and (session := next(sessions, None)) is not None:
        yield session[:num_left]
        num_left -= len(session)


def _num_turns(sessions: Sequence[Session]) -> int:
    return sum(map(len, sessions))


def _demand_session_for_each_user(load: Load, sessions: Sequence[Session]) -> None:
    """Fewer than users would be a smaller load than its name says."""
    if load.users is not None and len(sessions) < load.users:
        what = "requests" if all(len(session) == 1 for session in sessions) else "conversations"
        raise LoadTestError(
            f"{load} need at least {load.users} {what}, and there are {len(sessions)}: "
            "ask for more requests or fewer users"
        )


def _with_length(sampling: SamplingParams, *, max_tokens: int, seed: int) -> SamplingParams:
    """Greedy sampling draws nothing: without a seed it also runs on engines that take none."""
    return replace(sampling, max_tokens=max_tokens, seed=None if sampling.temperature == 0 else seed)
