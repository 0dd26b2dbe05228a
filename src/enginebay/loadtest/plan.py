"""What a load test sends: every prompt, length, sampling field and instant, frozen before anything starts.

Two runs are comparable when they replayed the plan of one SHA-256. Each load of a plan has prompts of its own, so
that a second load on a running engine finds nothing of the first in its prefix cache.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.types import Chat, GenerationRequest, Message, Prompt, SamplingParams, Text, TokenIds

PLAN_VERSION = 2

PromptCounts = Literal["tokenizer", "server", "estimated"]
"""By the model's tokenizer on this machine, by the server's own at its /tokenize, or by a rule of thumb: the last is
not held against a server that counts otherwise."""
Arrivals = Literal["closed", "constant", "poisson", "gamma", "ramp", "steps", "trace"]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: float
    duration_s: float

    def __post_init__(self) -> None:
        if not (self.rate >= 0 and self.duration_s > 0):
            raise LoadTestError(f"a step has a rate of 0 or more and a duration above 0, not {self}")


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How hard: `users` that each wait for their answer before they ask again, or requests at instants of their own.

    constant, poisson and gamma have a `rate`; a ramp goes from `rate` to `end_rate` within `duration_s`; steps have
    theirs; a trace is told by its name and replayed at `speed` times the speed of its recording.
    """

    users: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "closed"
    burstiness: float | None = None
    """Of gamma, ramp and steps: the shape of the distribution of gaps, as `vllm bench serve` has it. 1 is Poisson, less
    comes in bursts, more comes evenly."""
    end_rate: float | None = None
    duration_s: float | None = None
    steps: tuple[Step, ...] = ()
    trace: str | None = None
    speed: float | None = None

    def __post_init__(self) -> None:
        given = {
            name for name in self.__struct_fields__ if name != "arrivals" and getattr(self, name) not in (None, ())
        }
        needed, permitted = _FIELDS[self.arrivals]
        if missing := needed - given:
            raise LoadTestError(f"{self.arrivals} arrivals need {', '.join(sorted(missing))}")
        if surplus := given - needed - permitted:
            raise LoadTestError(f"{', '.join(sorted(surplus))}: not for {self.arrivals} arrivals")
        for name in ("users", "rate", "burstiness", "duration_s", "speed", "end_rate"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise LoadTestError(f"{name} must be more than 0, not {value}")
        if self.arrivals == "steps" and not any(step.rate for step in self.steps):
            raise LoadTestError("one of the steps must have a rate above 0")

    @property
    def is_closed(self) -> bool:
        return self.arrivals == "closed"

    def __str__(self) -> str:
        bursts = "" if self.burstiness is None else f", burstiness {self.burstiness:g}"
        if self.users is not None:
            return f"{self.users} user{'' if self.users == 1 else 's'}"
        if self.arrivals == "ramp":
            return f"{self.rate:g} to {self.end_rate:g} requests/s in {self.duration_s:g} s, ramp{bursts}"
        if self.arrivals == "steps":
            steps = ", ".join(f"{step.rate:g}/s for {step.duration_s:g} s" for step in self.steps)
            return f"steps of {steps}{bursts}"
        if self.arrivals == "trace":
            return f"trace {self.trace} at {self.speed or 1:g} x"
        return f"{self.rate:g} requests/s, {self.arrivals}{bursts}"


_FIELDS: dict[Arrivals, tuple[frozenset[str], frozenset[str]]] = {
    "closed": (frozenset({"users"}), frozenset()),
    "constant": (frozenset({"rate"}), frozenset()),
    "poisson": (frozenset({"rate"}), frozenset()),
    "gamma": (frozenset({"rate", "burstiness"}), frozenset()),
    "ramp": (frozenset({"rate", "end_rate", "duration_s"}), frozenset({"burstiness"})),
    "steps": (frozenset({"steps"}), frozenset({"burstiness"})),
    "trace": (frozenset({"trace"}), frozenset({"speed"})),
}
"""For each kind of arrivals what it needs, and what it may have besides."""


class PlannedMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: str
    content: str


class PlannedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of `text`, `token_ids` and `messages`: what is sent, exactly."""

    index: int
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[PlannedMessage, ...] | None = None
    """A conversation so far, with the answers that its data set recorded, never those that an engine gave: so every
    engine is sent the same. The engine applies the model's chat template."""
    num_prompt_tokens: int
    """As the target's tokenizer counts them, special tokens included; of messages, what the chat template makes."""
    num_shared_tokens: int = 0
    """Leading tokens that a prompt sent before on this start has too, warm-up included: the most that a prefix cache
    can give."""
    offset_s: float | None = None
    """From the start of the run; None where a request waits for something: in a closed loop for a free user, in a
    conversation for the turn before."""
    after: int | None = None
    """Index of the turn before: this request is sent `think_time_s` after its answer has ended, well or badly."""
    think_time_s: float = 0.0
    sampling: SamplingParams

    @property
    def prompt(self) -> Prompt:
        if self.token_ids is not None:
            return TokenIds(self.token_ids)
        if self.messages is not None:
            return Chat(tuple(Message(message.role, message.content) for message in self.messages))
        return Text(self.text or "")

    def to_request(self, request_id: str) -> GenerationRequest:
        return GenerationRequest(request_id=request_id, prompt=self.prompt, sampling=self.sampling)


class PlannedLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    load: Load
    start_index: int | None = None
    """The only start that it is for; None: every start. A server that runs already remembers prompts from one start to
    the next, so that each start has prompts of its own."""
    prompt_counts: PromptCounts = "tokenizer"
    """Who counted `num_prompt_tokens`."""
    warmup: tuple[PlannedRequest, ...] = ()
    """Sent first, in a closed loop, and not measured. Shares no prompt with `requests`, and no more of a beginning than
    their `num_shared_tokens` tell."""
    requests: tuple[PlannedRequest, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = PLAN_VERSION
    model: str
    workload: str
    """In words, for the report."""
    seed: int
    loads: tuple[PlannedLoad, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self)).hexdigest()

    @property
    def prompt_counts(self) -> PromptCounts | None:
        """One for all loads; None of a plan without any."""
        return self.loads[0].prompt_counts if self.loads else None

    def loads_of_start(self, start_index: int) -> tuple[PlannedLoad, ...]:
        return tuple(planned for planned in self.loads if planned.start_index in (None, start_index))


def canonical_json(plan: Plan) -> bytes:
    """One byte string for one plan: sorted keys, no white space, shortest exact floats."""
    return msgspec.json.encode(msgspec.to_builtins(plan, str_keys=True), order="sorted")


def save_plan(plan: Plan, path: Path) -> None:
    write_atomically(path, canonical_json(plan))


def load_plan(path: Path) -> Plan:
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a plan of version {PLAN_VERSION}: {error}") from error
    if plan.version != PLAN_VERSION:
        raise LoadTestError(f"{path}: is a plan of version {plan.version}, and this EngineBay reads {PLAN_VERSION}")
    return plan
