"""Plans of every kind of workload, and what is counted again from what they send."""

from __future__ import annotations

from pathlib import Path

from workload_tokenizer import byte_level_tokenizer, sentence_piece_tokenizer

from enginebay.loadtest.plan import Load, Plan, PlannedRequest
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.workloads import (
    ConversationWorkload,
    FixedLength,
    PromptForm,
    Quantity,
    SharedPrefixWorkload,
    SyntheticWorkload,
    UniformLengths,
    Workload,
    make_plan,
)
from enginebay.types import SamplingParams

TOKENIZERS = ("plain", "with BOS", "SentencePiece")
GREEDY = SamplingParams(max_tokens=1, temperature=0.0)
TWO_USERS, POISSON = Load(users=2), Load(rate=4.0, arrivals="poisson")
LENGTHS = {"input_tokens": UniformLengths(12, 40), "output_tokens": UniformLengths(3, 9)}


def tokenizer_of(name: str, folder: Path) -> FileTokenizer:
    """name: of TOKENIZERS."""
    if name == "SentencePiece":
        return sentence_piece_tokenizer(folder)
    return byte_level_tokenizer(folder, adds_bos=name == "with BOS")


def plan_of(
    tokenizer: FileTokenizer,
    workload: Workload,
    *loads: Load,
    form: PromptForm = "text",
    num_requests: int | None = 24,
    num_warmup: int = 4,
    offsets: list[float] | None = None,
) -> Plan:
    return make_plan(
        workload,
        loads or (TWO_USERS,),
        quantity=Quantity(num_requests=num_requests, num_warmup_requests=num_warmup, trace_offsets=offsets or ()),
        model="m",
        sampling=GREEDY,
        seed=3,
        tokenizer=tokenizer,
        form=form,
    )


def ids_of(tokenizer: FileTokenizer, request: PlannedRequest) -> list[int]:
    """Counted again from what is sent."""
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.messages is not None:
        return tokenizer.encode_messages(request.messages)
    return tokenizer.encode(request.text or "")


def everything_sent(plan: Plan) -> list[PlannedRequest]:
    return [request for load in plan.loads for request in (*load.warmup, *load.requests)]


def longest_known(ids: list[int], before: list[list[int]]) -> int:
    def shared(one: list[int], other: list[int]) -> int:
        return next(
            (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
        )

    return max((shared(ids, other) for other in before), default=0)


KINDS: dict[str, tuple[Workload, PromptForm]] = {
    "synthetic": (SyntheticWorkload(**LENGTHS), "text"),
    "synthetic chat": (SyntheticWorkload(input_tokens=UniformLengths(40, 80), output_tokens=FixedLength(4)), "chat"),
    "shared prefix": (SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS), "text"),
    "shared prefix ids": (SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS), "token_ids"),
    "shared prefix chat": (SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS), "chat"),
    "conversation": (ConversationWorkload(num_turns=UniformLengths(1, 4), system_tokens=20, **LENGTHS), "chat"),
    "conversation ids": (ConversationWorkload(num_turns=FixedLength(3), **LENGTHS), "token_ids"),
}


def conversations_in(requests: tuple[PlannedRequest, ...]) -> list[list[PlannedRequest]]:
    found: list[list[PlannedRequest]] = []
    for request in requests:
        if request.after is None:
            found.append([])
        found[-1].append(request)
    return found
