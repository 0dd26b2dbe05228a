"""What the engine's process does between two steps, without the process: both ends of the channel are here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from enginebay.backends.reference.engine_loop import EngineLoop
from enginebay.backends.reference.engine_messages import Cancel, StepDone, Submit, decode_from_engine, encode
from enginebay.backends.worker.channel import ChildChannel, FrameSplitter, framed
from enginebay.clock import MonotonicClock
from enginebay.engine.block_pool import BlockPool
from enginebay.engine.engine import Engine
from enginebay.engine.limits import EngineLimits
from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.plan import StepPlan
from enginebay.engine.policies import build_policy
from enginebay.engine.request import EngineRequest, PositionLogprobs
from enginebay.engine.scheduler import Scheduler
from enginebay.engine.settings import EngineConfig


@dataclass
class Steps:
    """Runner and sampler in one: says what it is told in the middle of a step, and always samples token 7."""

    during: dict[int, Callable[[], None]]
    """By number of the step: what happens while it computes."""
    number: int = 0
    seen: list[set[str]] = field(default_factory=list)
    """The requests of each step."""

    def forward(self, plan: StepPlan) -> StepLogits:
        self.number += 1
        self.seen.append({item.sequence.request.request_id for item in plan.scheduled})
        self.during.get(self.number, lambda: None)()
        return StepLogits(sampled=None)  # type: ignore[arg-type]

    def device_memory_bytes(self) -> int | None:
        return None

    def sample(self, logits: StepLogits, plan: StepPlan) -> list[list[SampledToken]]:
        return [[SampledToken(7)] for _ in plan.sampled]

    def prompt_logprobs(self, logits: StepLogits, plan: StepPlan) -> dict[int, list[PositionLogprobs]]:
        return {}


class WatchedChannel(ChildChannel):
    def __init__(self, theirs: socket.socket, on_sent: Callable[[StepDone], None]) -> None:
        super().__init__(theirs)
        self._on_sent = on_sent

    def send(self, payload: bytes) -> None:
        super().send(payload)
        message = decode_from_engine(payload)
        assert isinstance(message, StepDone)
        self._on_sent(message)


def messages_of(
    first: list[bytes],
    during: dict[int, Callable[[socket.socket], None]],
    *,
    close_when: Callable[[StepDone], bool] = lambda message: False,
) -> tuple[Steps, list[StepDone]]:
    """Run the loop until the parent closes, in the middle of a step or after a message; return all that it got."""
    ours, theirs = socket.socketpair()
    with theirs:
        steps = Steps({number: lambda act=act: act(ours) for number, act in during.items()})
        policy = build_policy(EngineConfig(model_dir="", max_num_seqs=4), max_model_len=256)
        engine = Engine(
            scheduler=Scheduler(policy, BlockPool(32), block_size=16),
            runner=steps,
            sampler=steps,
            limits=EngineLimits(max_model_len=256, num_blocks=32, block_size=16, vocab_size=10),
            eos_token_ids=(),
            clock=MonotonicClock(),
        )
        ours.sendall(b"".join(framed(payload) for payload in first))
        channel = WatchedChannel(theirs, lambda message: close(ours) if close_when(message) else None)
        EngineLoop(engine, channel, MonotonicClock()).run()
    with ours:
        data = b"".join(iter(lambda: ours.recv(1 << 16), b""))
    told = [decode_from_engine(frame) for frame in FrameSplitter().feed(data)]
    return steps, [message for message in told if isinstance(message, StepDone)]


def submit(request_id: str, max_tokens: int, num_prompt_tokens: int = 40) -> bytes:
    prompt = [1] * num_prompt_tokens
    return encode(Submit(EngineRequest(request_id=request_id, prompt_token_ids=prompt, max_tokens=max_tokens, seed=0)))


def close(ours: socket.socket) -> None:
    ours.shutdown(socket.SHUT_WR)


def test_a_cancel_that_comes_during_a_step_has_freed_the_blocks_before_the_next_one():
    steps, told = messages_of(
        [submit("leaves", 100), submit("stays", 100)],
        {3: lambda ours: ours.sendall(framed(encode(Cancel("leaves")))), 5: close},
    )
    assert steps.seen[2] == {"leaves", "stays"}
    assert steps.seen[3] == {"stays"}
    assert [message.counters.num_free_blocks for message in told[1:4]] == [32 - 6, 32 - 6, 32 - 3]
    assert [output.request_id for output in told[3].outputs] == ["stays"]


def test_a_cancel_of_the_last_request_is_told_without_another_step():
    steps, told = messages_of(
        [submit("only", 100)],
        {2: lambda ours: ours.sendall(framed(encode(Cancel("only"))))},
        close_when=lambda message: not message.outputs,
    )
    assert steps.seen == [{"only"}, {"only"}]
    assert (told[-1].counters.num_steps, told[-1].counters.num_free_blocks) == (2, 32)


def test_a_request_that_the_engine_refuses_ends_with_its_reason_and_the_others_go_on():
    _, told = messages_of([submit("too long", 1, 300), submit("fits", 2)], {2: close})
    refused, first = told[0].outputs
    assert (refused.request_id, refused.finish_reason) == ("too long", "error")
    assert "256" in (refused.error or "")
    assert (first.request_id, first.token_ids) == ("fits", [7])


def test_all_that_one_step_made_goes_in_one_message():
    _, told = messages_of([submit(name, 3) for name in ("a", "b", "c")], {3: close})
    assert [[output.request_id for output in message.outputs] for message in told] == [["a", "b", "c"]] * 3
    assert [message.counters.num_steps for message in told] == [1, 2, 3]


def test_a_message_that_cannot_be_read_costs_its_own_request_and_no_other():
    wrong = {
        "type": "submit",
        "request": {"request_id": "wrong", "prompt_token_ids": [1], "max_tokens": "x", "seed": 0},
    }
    _, told = messages_of([encode(wrong), b"\xc1", encode({"type": "new"}), submit("fits", 2)], {2: close})
    refused, first = told[0].outputs
    assert (refused.request_id, refused.finish_reason) == ("wrong", "error")
    assert "max_tokens" in (refused.error or "")
    assert (first.request_id, first.token_ids) == ("fits", [7])
