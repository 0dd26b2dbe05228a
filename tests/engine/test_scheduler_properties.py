"""Whatever is added, cancelled and preempted: the books balance, every request ends, and gives what it gives alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from engine_fakes import EOS, EngineUnderTest, Foresight, make_engine, make_request, next_token, prompt_of, tokens_alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginebay.engine.request import EngineRequest
from enginebay.engine.speculation.speculator import Speculator
from enginebay.errors import DeadlineExceeded

MAX_MODEL_LEN = 24
START_AT = 100.0
"""Of the fake clock; a step takes a second."""


@dataclass
class Cancel:
    index: int


@dataclass
class Steps:
    number: int


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    num_prompt_tokens = draw(st.integers(1, 18))
    max_tokens = draw(st.integers(0, 12))
    return make_request(
        f"r{draw(st.integers(0, 10**6))}",
        num_prompt_tokens,
        max_tokens,
        prompt_token_ids=prompt_of(f"text {draw(st.integers(0, 2))}", num_prompt_tokens),  # prefixes of a few texts
        cache_salt=draw(st.sampled_from(["", "", "salt"])),
        ignore_eos=draw(st.booleans()),
        stop_token_ids=draw(st.lists(st.integers(0, 96), max_size=12, unique=True)),
        min_tokens=draw(st.integers(0, max_tokens)),
        priority=draw(st.sampled_from([0, 0, 0, -1, 1])),
        resume_token_ids=draw(st.lists(st.integers(1, 96), max_size=3)) if max_tokens else [],
        deadline_at=START_AT + draw(st.integers(1, 60)) if draw(st.booleans()) else None,
    )


traffic = st.lists(
    st.one_of(requests(), requests(), st.builds(Steps, st.integers(1, 6)), st.builds(Cancel, st.integers(0, 30))),
    min_size=1,
    max_size=30,
)
engines = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(["continuous", "dynamic", "static", "naive"]),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(6, 40),
        "num_blocks": st.integers(12, 24),  # 12 blocks of 2 positions hold one full context, little more
        "block_size": st.sampled_from([2, 3]),
        "chunked_prefill": st.booleans(),
        "enable_prefix_caching": st.booleans(),
        "speculation": st.sampled_from([None, None, 0.0, 0.3, 1.0]),  # how often a drafted token is wrong
        "memory_tokens": st.sampled_from([None, None, 1, 5, 12]),
    }
)


def build(choice: dict[str, object]) -> EngineUnderTest:
    error_rate = choice.get("speculation")
    choice = {name: value for name, value in choice.items() if name != "speculation"}
    if isinstance(error_rate, float) and choice["policy"] != "static":
        drafts = Speculator(Foresight(error_rate), max_num_tokens=3, max_model_len=MAX_MODEL_LEN, cost=None)
        choice["speculator"] = drafts
    memory_tokens = choice["memory_tokens"]
    choice = {name: value for name, value in choice.items() if name != "memory_tokens"}
    if not choice["chunked_prefill"]:
        choice = {**choice, "max_num_batched_tokens": 24 + int(str(choice["max_num_batched_tokens"]))}
    under_test = make_engine(max_model_len=MAX_MODEL_LEN, **choice)  # type: ignore[arg-type]
    under_test.runner.memory_tokens = memory_tokens  # type: ignore[assignment]
    return under_test


def has_ended_already(request: EngineRequest) -> bool:
    resumed = request.resume_token_ids
    if not resumed:
        return False
    is_stop = (resumed[-1] == EOS and not request.ignore_eos) or resumed[-1] in request.stop_token_ids
    return is_stop and len(resumed) >= request.min_tokens


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(engines, traffic)
def test_any_traffic_ends_with_every_block_free_and_the_tokens_of_each_request_alone(
    choice: dict[str, object], events: list[EngineRequest | Steps | Cancel]
):
    under_test = build(choice)
    engine = under_test.engine
    added: dict[str, EngineRequest] = {}
    cancelled: set[str] = set()
    num_refused = 0
    for event in events:
        if isinstance(event, EngineRequest):
            if event.request_id not in added:
                try:
                    engine.add(event)
                except DeadlineExceeded:
                    num_refused += 1
                else:
                    added[event.request_id] = event
        elif isinstance(event, Cancel) and added:
            request_id = list(added)[event.index % len(added)]
            cancelled.add(request_id)
            engine.cancel(request_id)
        elif isinstance(event, Steps):
            for _ in range(event.number):
                under_test.step()
        engine.scheduler.check_integrity()
    under_test.run()

    engine.scheduler.pool.check_integrity([])
    for request_id, request in added.items():
        expected = [] if has_ended_already(request) else tokens_alone(request, max_model_len=MAX_MODEL_LEN)
        if request_id in cancelled or under_test.outputs[request_id][-1].error_kind == "deadline":
            given_tokens = under_test.tokens(request_id)
            assert given_tokens == expected[: len(given_tokens)]
        else:
            assert under_test.tokens(request_id) == expected
            assert under_test.finish_reason(request_id) in ("stop", "length")
    check_counters(under_test, num_added=len(added))
    assert engine.counters.num_deadline_refused >= num_refused


def check_counters(under_test: EngineUnderTest, *, num_added: int) -> None:
    counters = under_test.engine.counters
    steps = under_test.runner.plans
    assert counters.num_steps == len(steps)
    assert sum(counters.num_finished_by_reason.values()) == num_added
    assert counters.num_output_tokens == sum(len(o.token_ids) for many in under_test.outputs.values() for o in many)
    assert counters.num_computed_tokens == sum(new + padding for step in steps for _, _, new, padding, _ in step)
    assert counters.num_padding_tokens == sum(padding for step in steps for _, _, _, padding, _ in step)
    assert counters.num_slot_steps - counters.num_idle_slot_steps == sum(not i[4] for step in steps for i in step)
    assert (counters.num_running, counters.num_waiting) == (0, 0)
    assert counters.num_free_blocks == counters.num_blocks


@settings(max_examples=100, deadline=None)
@given(engines, st.lists(requests(), min_size=1, max_size=12, unique_by=lambda r: r.request_id))
def test_no_step_is_larger_than_the_token_budget(choice: dict[str, object], many: list[EngineRequest]):
    under_test = build(choice)
    for request in many:
        with suppress(DeadlineExceeded):
            under_test.engine.add(request)
    under_test.run()
    budget = under_test.engine.scheduler.policy.max_num_batched_tokens
    for step in under_test.runner.plans:
        assert 0 < sum(new + padding for _, _, new, padding, _ in step) <= budget


def test_the_fake_model_depends_on_the_whole_history():
    assert len({next_token([1, 2, 3]), next_token([9, 2, 3]), next_token([1, 2]), next_token([1, 3, 2])}) == 4
