"""Traffic that was captured, replayed and captured again has the structure that it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from loadtest_fakes import ScriptedBackend, VirtualClock

from enginebay.gateway.app import build_app
from enginebay.gateway.call import Call, Client
from enginebay.gateway.capture import TrafficCapture
from enginebay.gateway.logs import make_logger
from enginebay.gateway.models.one_backend import OneBackend
from enginebay.gateway.passage import Passage
from enginebay.gateway.served import Served
from enginebay.guard import GuardedBackend
from enginebay.loadtest.estimated_tokenizer import EstimatedTokenizer
from enginebay.loadtest.plan import Load, Plan, PlannedRequest
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.traces import Trace, TracedRequest, read_trace
from enginebay.loadtest.workloads import (
    ConversationWorkload,
    FixedLength,
    PromptForm,
    Quantity,
    SharedPrefixWorkload,
    SyntheticWorkload,
    ThinkTime,
    TraceWorkload,
    UniformLengths,
    Workload,
    make_plan,
)
from enginebay.types import (
    BackendInfo,
    Chat,
    GenerationChunk,
    GenerationRequest,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
)

BLOCK_TOKENS = 16
GREEDY = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
POISSON = Load(rate=20.0, arrivals="poisson")
REPLAY = Load(arrivals="trace", trace="captured")


@dataclass
class CountingBackend(ScriptedBackend):
    tokenizer: EstimatedTokenizer = field(default_factory=EstimatedTokenizer)

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        if isinstance(prompt, Chat):
            return tuple(self.tokenizer.encode("\n".join(str(message.content) for message in prompt.messages)))
        assert isinstance(prompt, Text)
        return tuple(self.tokenizer.encode(prompt.text))


@dataclass
class OverTheWire:
    """Asks when the stream is read, as a client of a server does: the runner makes its streams before a run begins."""

    served: Served
    model: OneBackend

    @property
    def info(self) -> BackendInfo:
        return self.model.info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        call = Call(
            request_id=request.request_id,
            client=Client(address=""),
            model=self.model.name,
            requests=[request],
            arrived_at=self.served.clock.now(),
            body_bytes=0,
        )
        passage = Passage(
            call,
            self.model,
            choices_per_prompt=1,
            hooks=self.served.hooks,
            clock=self.served.clock,
            is_ending=lambda: False,
        )
        with passage:
            [stream] = await passage.admit()
            async for chunk in stream:
                passage.received(0, chunk)
                if chunk.finish_reason is not None:
                    passage.finish()
                yield chunk


def planned_with(
    tokenizer: EstimatedTokenizer, workload: Workload, load: Load, *, form: PromptForm = "text", offsets=()
) -> Plan:
    quantity = Quantity(num_requests=None if offsets else 60, trace_offsets=offsets)
    return make_plan(
        workload, (load,), quantity=quantity, model="m", sampling=GREEDY, seed=4, tokenizer=tokenizer, form=form
    )


def captured(path: Path, tokenizer: EstimatedTokenizer, requests: Sequence[PlannedRequest], load: Load) -> Trace:
    capture = TrafficCapture(path, block_tokens=BLOCK_TOKENS, log=make_logger())

    async def main() -> None:
        clock = VirtualClock()
        guarded = GuardedBackend(CountingBackend(clock=clock, tokenizer=tokenizer))
        served = build_app(guarded, clock=clock, log=make_logger(), capture=capture).served
        assert isinstance(served.models, OneBackend)
        await guarded.start()
        capture.begin(served.models)
        wire = OverTheWire(served, served.models)
        await Runner(wire, clock=clock, on_record=lambda record: None).run(requests, load)
        await capture.end()
        await guarded.aclose()

    asyncio.run(main())
    assert capture.num_lost == 0
    return read_trace(path)


def structure(trace: Trace) -> list[tuple[float, int, int, tuple[int, ...]]]:
    """Hash ids are numbered as they come: salts differ, what is equal to what does not."""
    numbers: dict[int, int] = {}
    return [
        (
            request.at,
            request.num_input_tokens,
            request.num_output_tokens,
            tuple(numbers.setdefault(hash_id, len(numbers)) for hash_id in request.hash_ids),
        )
        for request in trace.requests
    ]


WORKLOADS = {
    "two system prompts": (
        SharedPrefixWorkload(
            prefix_tokens=53, num_prefixes=2, input_tokens=UniformLengths(8, 90), output_tokens=UniformLengths(2, 9)
        ),
        "text",
    ),
    "conversations": (
        ConversationWorkload(
            num_turns=FixedLength(3),
            input_tokens=UniformLengths(10, 40),
            output_tokens=UniformLengths(2, 30),
            system_tokens=40,
            think_time=ThinkTime(mean_s=0.5),
        ),
        "chat",
    ),
    "nothing shared": (
        SyntheticWorkload(input_tokens=UniformLengths(8, 90), output_tokens=UniformLengths(2, 9)),
        "token_ids",
    ),
}


@pytest.mark.parametrize("form_of_replay", ["text", "token_ids"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_captured_replayed_and_captured_again_it_is_the_same(tmp_path, name: str, form_of_replay: PromptForm) -> None:
    workload, form = WORKLOADS[name]
    tokenizer = EstimatedTokenizer()
    first_plan = planned_with(tokenizer, workload, POISSON, form=form)
    first = captured(tmp_path / "first.jsonl", tokenizer, first_plan.loads[0].requests, POISSON)
    assert len(first.requests) == 60
    replayed = planned_with(tokenizer, TraceWorkload(first), REPLAY, form=form_of_replay, offsets=first.offsets)
    again = captured(tmp_path / "again.jsonl", tokenizer, replayed.loads[0].requests, REPLAY)
    assert structure(again) == structure(first)
    shares_beginnings = len({hash_id for request in first.requests for hash_id in request.hash_ids[:1]}) < 60
    assert shares_beginnings == (name != "nothing shared")
    # The texts have nothing in common: what is shared is the structure alone.
    said = {request.text for request in first_plan.loads[0].requests}
    assert not said & {request.text for request in replayed.loads[0].requests if request.text}


def test_the_replay_shares_as_many_tokens_as_its_blocks_say(tmp_path) -> None:
    tokenizer = EstimatedTokenizer()
    trace = Trace(
        name="t",
        requests=tuple(
            TracedRequest(at=0.1 * index, num_input_tokens=40, num_output_tokens=2, hash_ids=hash_ids)
            for index, hash_ids in enumerate([(1, 2, 3), (1, 2, 4), (1, 5, 6), (7, 8, 9), (1, 2, 3)])
        ),
        block_tokens=16,
    )
    plan = planned_with(tokenizer, TraceWorkload(trace), REPLAY, offsets=trace.offsets)
    shared = [request.num_shared_tokens for request in plan.loads[0].requests]
    assert shared[3:] == [0, 40]
    # The words of two different blocks may begin with one token alike, never with a block of it.
    assert all(blocks * 16 <= tokens < blocks * 16 + 8 for blocks, tokens in zip([0, 2, 1], shared[:3], strict=True))
