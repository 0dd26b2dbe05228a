"""Requests of every kind run together in many ways, and what each of them got: tokens, log-probabilities, logits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from enginebay.clock import MonotonicClock
from enginebay.engine.factory import assemble
from enginebay.engine.logits import StepLogits
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.plan import StepPlan
from enginebay.engine.request import EngineRequest, PositionLogprobs
from enginebay.engine.settings import EngineConfig

BLOCK_SIZE = 4
MAX_MODEL_LEN = 64
SAMPLINGS: tuple[dict[str, object], ...] = (
    {},
    {"num_logprobs": 3},
    {"temperature": 0.8, "num_logprobs": 0},
    {"temperature": 1.3, "top_p": 0.7},
    {"temperature": 1.0, "top_k": 7, "num_logprobs": 5},
    {"temperature": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.3, "num_logprobs": 1},
    {"temperature": 1.1, "logit_bias": {5: 2.0, 9: -3.0}, "min_tokens": 3},
)


@dataclass
class Given:
    """What one request got."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    logits: dict[int, bytes] = field(default_factory=dict)
    """By the number of tokens before the one that they give. A step that is computed again must give the same."""
    num_cached_tokens: int = 0
    num_preemptions: int = 0


@dataclass(frozen=True)
class Composition:
    settings: Mapping[str, object] = field(default_factory=dict)
    add_at_step: Mapping[str, int] = field(default_factory=dict)
    """By request id; 0 where it is not named."""


class RecordingRunner(ModelRunner):
    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.logits: dict[str, dict[int, bytes]] = {}

    def forward(self, plan: StepPlan) -> StepLogits:
        logits = super().forward(plan)
        for row, item in enumerate(plan.sampled):
            recorded = self.logits.setdefault(item.sequence.request.request_id, {})
            given = logits.sampled[row].numpy().tobytes()
            assert recorded.setdefault(item.sequence.num_tokens, given) == given, "computed again, and not the same"
        return logits


def mixed_requests(*, num_requests: int, vocab_size: int, seed: int) -> list[EngineRequest]:
    """Half of the prompts begin alike; some ask for the log-probabilities of their prompt."""
    rng = random.Random(seed)
    shared = [rng.randrange(3, vocab_size) for _ in range(19)]
    requests: list[EngineRequest] = []
    for index in range(num_requests):
        own = [rng.randrange(3, vocab_size) for _ in range(rng.randint(1, 20))]
        sampling = SAMPLINGS[index % len(SAMPLINGS)]
        requests.append(
            EngineRequest(
                request_id=f"request {index}",
                prompt_token_ids=[*shared[: rng.choice((0, 9, 19))], *own],
                max_tokens=rng.randint(4, 16),
                seed=rng.getrandbits(40),
                ignore_eos=True,
                priority=rng.choice((0, 0, 1)),
                num_prompt_logprobs=rng.choice((None, None, None, 2)),
                **sampling,  # type: ignore[arg-type]
            )
        )
    return requests


def given_by(
    directory: Path, requests: Sequence[EngineRequest], composition: Composition | None = None
) -> dict[str, Given]:
    """Run them together to their ends; what each got, by its id."""
    composition = composition or Composition()
    config = engine_config(directory, **composition.settings)
    runner = RecordingRunner(config)
    engine = assemble(config, runner, MonotonicClock())
    runner.logits.clear()
    given = {request.request_id: Given() for request in requests}
    to_add = sorted(requests, key=lambda request: composition.add_at_step.get(request.request_id, 0))
    num_steps = 0
    while to_add or engine.has_work:
        while to_add and (not engine.has_work or composition.add_at_step.get(to_add[0].request_id, 0) <= num_steps):
            engine.add(to_add.pop(0))
        for output in engine.step():
            assert output.error is None, output.error
            mine = given[output.request_id]
            mine.token_ids += output.token_ids
            mine.logprobs += output.logprobs or []
            mine.prompt_logprobs = mine.prompt_logprobs or output.prompt_logprobs
            mine.num_cached_tokens, mine.num_preemptions = output.num_cached_tokens, output.num_preemptions
        engine.scheduler.check_integrity()
        num_steps += 1
    for request_id, logits in runner.logits.items():
        given[request_id].logits = logits
    return given


def given_alone(directory: Path, requests: Sequence[EngineRequest], **settings: object) -> dict[str, Given]:
    """One after the other, every prompt at once, nothing found in the prefix cache."""
    alone = {"policy": "naive", "enable_prefix_caching": False, "num_blocks": 40, "num_threads": 1}
    return given_by(directory, requests, Composition({**alone, **settings}))


def engine_config(directory: Path, **settings: object) -> EngineConfig:
    values: dict[str, object] = {
        "dtype": "float32",
        "block_size": BLOCK_SIZE,
        "max_model_len": MAX_MODEL_LEN,
        "batch_invariant": True,
        "num_threads": 1,
        "static_batch_timeout_s": 0.0,
        **settings,
    }
    return EngineConfig(model_dir=str(directory), **values)  # type: ignore[arg-type]


def random_composition(requests: Sequence[EngineRequest], *, seed: int) -> tuple[list[EngineRequest], Composition]:
    """Some of the requests in any order, joining at any step, under a policy, a chunk size and a memory of chance."""
    rng = random.Random(seed)
    chosen = rng.sample(requests, k=rng.randint(2, len(requests)))
    num_slots = rng.randint(2, 6)
    settings: dict[str, object] = {
        "policy": ("continuous", "static", "dynamic", "naive")[seed % 4],
        "max_num_seqs": num_slots,
        "max_num_batched_tokens": rng.choice((num_slots, num_slots + 3, 17, 256)),
        "enable_prefix_caching": rng.random() < 0.6,
        "num_blocks": rng.choice((MAX_MODEL_LEN // BLOCK_SIZE, 24, 200)),
        "num_threads": 2 if seed % 8 == 5 else 1,  # two that fight for a busy core are many times slower than one
    }
    if settings["policy"] != "static":
        settings |= rng.choice(({}, {"speculative_ngram": 3}, {"speculative_self_draft": "first_layers:1"}))
    return chosen, Composition(settings, {request.request_id: rng.randint(0, 12) for request in chosen})


def differences(given: Mapping[str, Given], alone: Mapping[str, Given]) -> list[str]:
    """Of each request that did not get, to the bit, what it gets alone."""
    return [request_id for request_id, mine in given.items() if not _is_same(mine, alone[request_id])]


def _is_same(given: Given, alone: Given) -> bool:
    """Logits as far as they were looked at: a draft that was accepted has passed over a row."""
    same_logits = all(alone.logits.get(num_tokens) == logits for num_tokens, logits in given.logits.items())
    return same_logits and (given.token_ids, given.logprobs, given.prompt_logprobs) == (
        alone.token_ids,
        alone.logprobs,
        alone.prompt_logprobs,
    )


def resumed(request: EngineRequest, token_ids: Sequence[int]) -> EngineRequest:
    """As another replica would get it after these tokens were delivered."""
    return msgspec.structs.replace(request, resume_token_ids=list(token_ids), num_prompt_logprobs=None)
