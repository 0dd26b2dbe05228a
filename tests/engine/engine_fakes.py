"""A model without torch: its next token is a function of the whole history, read back from the block tables.

The KV cache is a table of cells that remember which token at which position of which sequence was written there, so
that a wrong block, a wrong position or a block given to two sequences shows at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from zlib import crc32

from enginebay.engine.block_pool import BlockPool
from enginebay.engine.engine import Engine
from enginebay.engine.limits import EngineLimits
from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.plan import SCRATCH_BLOCK, ScheduledSequence, StepPlan
from enginebay.engine.policies import build_policy
from enginebay.engine.prefix_cache import PrefixCache
from enginebay.engine.request import EngineOutput, EngineRequest, PositionLogprobs
from enginebay.engine.scheduler import Scheduler
from enginebay.engine.settings import EngineConfig
from enginebay.engine.speculation.proposer import Draft, Wanted
from enginebay.engine.speculation.speculator import Speculator
from enginebay.engine.speculation.verification import verified

VOCAB_SIZE = 97
EOS = 0


@dataclass
class TickingClock:
    """Moves only when told, and by `step_s` for each forward pass of the fake runner."""

    instant: float = 100.0

    def now(self) -> float:
        return self.instant

    async def sleep_until(self, instant: float) -> None:
        self.instant = max(self.instant, instant)


def next_token(history: list[int]) -> int:
    return crc32(bytes(history)) % VOCAB_SIZE


def tokens_alone(request: EngineRequest, *, max_model_len: int) -> list[int]:
    """What a request must give, whoever runs beside it."""
    history = [*request.prompt_token_ids, *request.resume_token_ids]
    given: list[int] = []
    while len(request.resume_token_ids) + len(given) < request.max_tokens and len(history) < max_model_len:
        token = next_token(history)
        history.append(token)
        given.append(token)
        num_output = len(request.resume_token_ids) + len(given)
        is_stop = (token == EOS and not request.ignore_eos) or token in request.stop_token_ids
        if is_stop and num_output >= request.min_tokens:
            break
    return given


@dataclass
class FakeRunner:
    block_size: int
    clock: TickingClock
    step_s: float = 1.0
    cells: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    plans: list[list[tuple[str, int, int, int, bool]]] = field(default_factory=list)
    fail_on_step: int | None = None
    memory_tokens: int | None = None
    """A step of more runs out of memory, and leaves no plan here."""
    histories: list[list[list[int]]] = field(default_factory=list)
    """For each that is sampled: what its newest token sees, and what each of its drafts does."""

    def forward(self, plan: StepPlan) -> StepLogits:
        self.clock.instant += self.step_s
        if self.memory_tokens is not None and plan.num_computed_tokens > self.memory_tokens:
            raise MemoryError("the fake runner has no more")
        self.plans.append(
            [(i.sequence.request.request_id, i.start, i.num_new_tokens, i.num_padding_tokens, i.is_idle)
             for i in plan.scheduled]
        )  # fmt: skip
        if self.fail_on_step == len(self.plans):
            raise RuntimeError("the fake runner was told to fail")
        self._check_owners(plan)
        for item in plan.scheduled:
            self._write(item)
        self.histories = [
            [self._read(item, item.start + item.num_new_tokens - num_later)
             for num_later in range(len(item.draft_token_ids), -1, -1)]
            for item in plan.sampled
        ]  # fmt: skip
        return StepLogits(sampled=None)  # type: ignore[arg-type]

    def device_memory_bytes(self) -> int | None:
        return None

    def _check_owners(self, plan: StepPlan) -> None:
        """Blocks may be shared, but whoever writes to one has it alone."""
        owners = Counter(block for item in plan.scheduled for block in item.sequence.block_table)
        assert SCRATCH_BLOCK not in owners, "the scratch block was given away"
        for item in plan.scheduled:
            for position in range(item.start, item.start + item.num_new_tokens):
                block, _ = self._cell(item, position)
                assert owners[block] == 1, "a shared block is written to"

    def _write(self, item: ScheduledSequence) -> None:
        for position in range(item.start, item.start + item.num_new_tokens):
            token_ids = [*item.sequence.token_ids, *item.draft_token_ids]
            self.cells[self._cell(item, position)] = (token_ids[position], position)

    def _read(self, item: ScheduledSequence, num_positions: int) -> list[int]:
        cells = [self.cells[self._cell(item, position)] for position in range(num_positions)]
        assert [position for _, position in cells] == list(range(len(cells))), "a cell of another position was read"
        return [token for token, _ in cells]

    def _cell(self, item: ScheduledSequence, position: int) -> tuple[int, int]:
        return item.sequence.block_table[position // self.block_size], position % self.block_size


@dataclass
class FakeSampler:
    runner: FakeRunner
    broken: set[str] = field(default_factory=set)
    """Request ids whose logits are NaN."""

    def sample(self, logits: StepLogits, plan: StepPlan) -> list[list[SampledToken]]:
        assert len(self.runner.histories) == len(plan.sampled)
        return [
            [SampledToken(0, error="the logits are not numbers (NaN)")]
            if item.sequence.request.request_id in self.broken
            else verified(item.draft_token_ids, [SampledToken(next_token(history)) for history in histories])
            for histories, item in zip(self.runner.histories, plan.sampled, strict=True)
        ]

    def prompt_logprobs(self, logits: StepLogits, plan: StepPlan) -> dict[int, list[PositionLogprobs]]:
        return {}


@dataclass
class Foresight:
    """Drafts what the fake model will say; a token is wrong with probability `error_rate`."""

    error_rate: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    only: set[str] | None = None
    """Request ids; None is everybody."""
    lengths: list[int] = field(default_factory=list)

    def propose(self, wanted: Many[Wanted]) -> list[Draft]:
        return [Draft(self._proposed(one)) for one in wanted]

    def _proposed(self, wanted: Wanted) -> list[int]:
        assert wanted.sequence.num_uncomputed_tokens == 1
        if self.only is not None and wanted.sequence.request.request_id not in self.only:
            return []
        history = list(wanted.sequence.token_ids)
        for _ in range(wanted.num_tokens):
            token = next_token(history)
            history.append((token + 1) % VOCAB_SIZE if self.rng.random() < self.error_rate else token)
        self.lengths.append(wanted.num_tokens)
        return history[wanted.sequence.num_tokens :]


@dataclass
class EngineUnderTest:
    engine: Engine
    runner: FakeRunner
    sampler: FakeSampler
    clock: TickingClock
    outputs: dict[str, list[EngineOutput]] = field(default_factory=dict)

    def step(self) -> list[EngineOutput]:
        outputs = self.engine.step()
        self.engine.scheduler.check_integrity()
        for output in outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
        return outputs

    def run(self, max_num_steps: int = 10_000) -> None:
        """To the end of all work, waiting on the clock where the engine says so."""
        for _ in range(max_num_steps):
            at = self.engine.next_step_at()
            if at is None:
                assert not self.engine.has_work
                return
            self.clock.instant = max(self.clock.instant, at)
            self.step()
        raise AssertionError(f"still working after {max_num_steps} steps: a request is stuck")

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.outputs.get(request_id, []) for token in output.token_ids]

    def finish_reason(self, request_id: str) -> str | None:
        outputs = self.outputs[request_id]
        assert all(output.finish_reason is None for output in outputs[:-1]), "output after the last one"
        return outputs[-1].finish_reason


def make_engine(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_model_len: int = 64,
    step_s: float = 1.0,
    speculator: Speculator | None = None,
    **settings: object,
) -> EngineUnderTest:
    config = EngineConfig(model_dir="", **{"max_num_seqs": 4, "max_num_batched_tokens": 32, **settings})  # type: ignore[arg-type]
    clock = TickingClock()
    runner = FakeRunner(block_size, clock, step_s)
    sampler = FakeSampler(runner)
    policy = build_policy(config, max_model_len=max_model_len)
    pool = BlockPool(num_blocks)
    uses_cache = config.enable_prefix_caching and config.policy != "static"
    prefix_cache = PrefixCache(pool, block_size=block_size) if uses_cache else None
    engine = Engine(
        scheduler=Scheduler(policy, pool, block_size=block_size, prefix_cache=prefix_cache),
        runner=runner,
        sampler=sampler,
        limits=EngineLimits(
            max_model_len=max_model_len, num_blocks=num_blocks, block_size=block_size, vocab_size=VOCAB_SIZE
        ),
        eos_token_ids=(EOS,),
        clock=clock,
        speculator=speculator,
    )
    return EngineUnderTest(engine, runner, sampler, clock)


def prompt_of(text: str, num_tokens: int) -> list[int]:
    base = crc32(text.encode())
    return [(base + 7 * index) % (VOCAB_SIZE - 1) + 1 for index in range(num_tokens)]


def make_request(request_id: str, num_prompt_tokens: int = 5, max_tokens: int = 4, **fields: object) -> EngineRequest:
    """ignore_eos unless told otherwise, so that lengths are known."""
    prompt = prompt_of(request_id, num_prompt_tokens)
    return EngineRequest(
        **{  # type: ignore[arg-type]
            "request_id": request_id,
            "prompt_token_ids": prompt,
            "max_tokens": max_tokens,
            "seed": 0,
            "ignore_eos": True,
            **fields,
        }
    )
