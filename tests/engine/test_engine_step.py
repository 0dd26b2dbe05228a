"""What an engine promises about each request: its tokens, its end, its failure, and what is left of it."""

from __future__ import annotations

import pytest
from engine_fakes import EOS, VOCAB_SIZE, make_engine, make_request, tokens_alone

from enginebay.engine.request import EngineOutput, PositionLogprobs
from enginebay.errors import ContextTooLong, InvalidRequest

MAX_MODEL_LEN = 64


def finished(under_test, request) -> tuple[list[int], str | None]:
    under_test.engine.add(request)
    under_test.run()
    return under_test.tokens(request.request_id), under_test.finish_reason(request.request_id)


# ---------------------------------------------------------------- ends


def test_max_tokens_ends_with_length():
    request = make_request("a", 5, 7)
    assert finished(make_engine(), request) == (tokens_alone(request, max_model_len=MAX_MODEL_LEN), "length")


def test_a_full_context_ends_with_length():
    tokens, reason = finished(make_engine(max_model_len=10), make_request("a", 5, 100))
    assert (len(tokens), reason) == (5, "length")


def test_end_of_sequence_is_delivered_and_ends_with_stop():
    alone = tokens_alone(make_request("a", 5, 500), max_model_len=600)
    request = make_request("a", 5, 500, ignore_eos=False)
    under_test = make_engine(max_model_len=600, num_blocks=200)
    assert finished(under_test, request) == (alone[: alone.index(EOS) + 1], "stop")
    assert under_test.outputs["a"][-1].stop_token_id is None


def test_a_stop_token_is_delivered_and_named():
    alone = tokens_alone(make_request("a", 5, 10), max_model_len=MAX_MODEL_LEN)
    under_test = make_engine()
    request = make_request("a", 5, 10, stop_token_ids=[alone[4]])
    assert finished(under_test, request) == (alone[: alone.index(alone[4]) + 1], "stop")
    assert under_test.outputs["a"][-1].stop_token_id == alone[4]


def test_no_stop_counts_before_min_tokens():
    alone = tokens_alone(make_request("a", 5, 10), max_model_len=MAX_MODEL_LEN)
    request = make_request("a", 5, 10, stop_token_ids=alone, min_tokens=6)
    assert finished(make_engine(), request) == (alone[:6], "stop")


def test_no_output_asked_for_computes_the_prompt_and_ends_with_length():
    under_test = make_engine(max_num_batched_tokens=4, max_num_seqs=2)
    assert finished(under_test, make_request("a", 10, 0)) == ([], "length")
    assert [new for step in under_test.runner.plans for _, _, new, _, _ in step] == [4, 4, 2]
    assert under_test.engine.counters.num_prompt_tokens == 10


def test_a_prompt_may_fill_the_whole_context_if_no_output_is_asked_for():
    assert finished(make_engine(max_model_len=8), make_request("a", 8, 0)) == ([], "length")


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("num_delivered", [1, 4, 9])
def test_a_resumed_request_goes_on_where_it_was(num_delivered: int):
    alone = tokens_alone(make_request("a", 5, 10), max_model_len=MAX_MODEL_LEN)
    request = make_request("a", 5, 10, resume_token_ids=alone[:num_delivered])
    assert finished(make_engine(), request) == (alone[num_delivered:], "length")


def test_a_request_that_was_cut_off_after_its_last_token_only_gets_its_end():
    alone = tokens_alone(make_request("a", 5, 10), max_model_len=MAX_MODEL_LEN)
    under_test = make_engine()
    assert finished(under_test, make_request("a", 5, 10, resume_token_ids=alone)) == ([], "length")
    stopped = make_request("b", 5, 10, resume_token_ids=alone[:3], stop_token_ids=[alone[2]])
    assert finished(under_test, stopped) == ([], "stop")
    assert under_test.runner.plans == []


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"prompt_token_ids": []}, InvalidRequest, "prompt"),
        ({"prompt_token_ids": [VOCAB_SIZE]}, InvalidRequest, "prompt"),
        ({"prompt_token_ids": [-1]}, InvalidRequest, "prompt"),
        ({"stop_token_ids": [VOCAB_SIZE]}, InvalidRequest, "stop_token_ids"),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, InvalidRequest, "logit_bias"),
        ({"resume_token_ids": [VOCAB_SIZE]}, InvalidRequest, "resume_token_ids"),
        ({"max_tokens": -1}, InvalidRequest, "max_tokens"),
        ({"prompt_token_ids": [1] * 64}, ContextTooLong, "prompt"),
        ({"prompt_token_ids": [1] * 65, "max_tokens": 0}, ContextTooLong, "prompt"),
        ({"prompt_token_ids": [1] * 10, "max_tokens": 40}, ContextTooLong, "max_tokens"),
    ],
)
def test_what_can_never_be_computed_is_refused_and_leaves_nothing(fields: dict[str, object], error: type, field: str):
    under_test = make_engine(num_blocks=12)  # 48 positions
    with pytest.raises(error) as refused:
        under_test.engine.add(make_request("a", **fields))  # type: ignore[arg-type]
    assert refused.value.field == field
    assert not under_test.engine.has_work
    assert under_test.engine.next_step_at() is None


def test_a_request_id_in_use_is_refused_and_the_first_goes_on():
    under_test = make_engine()
    request = make_request("a")
    under_test.engine.add(request)
    with pytest.raises(InvalidRequest, match="in use"):
        under_test.engine.add(make_request("a"))
    under_test.run()
    assert under_test.tokens("a") == tokens_alone(request, max_model_len=MAX_MODEL_LEN)
    under_test.outputs.clear()
    assert finished(under_test, make_request("a"))[1] == "length"


# ---------------------------------------------------------------- cancel


@pytest.mark.parametrize("policy", ["naive", "static", "continuous"])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_a_cancelled_request_frees_its_blocks_at_once_and_says_no_more(policy: str, num_steps: int):
    under_test = make_engine(policy=policy, max_num_seqs=2, max_num_batched_tokens=4)
    under_test.engine.add(make_request("a", 9, 8))
    under_test.engine.add(make_request("b", 9, 8))
    for _ in range(num_steps):
        under_test.step()
    said = len(under_test.outputs.get("a", []))
    under_test.engine.cancel("a")
    under_test.engine.scheduler.check_integrity()
    held = {s.request.request_id for s in under_test.engine.scheduler.running}
    assert "a" not in held
    under_test.engine.cancel("a")
    under_test.run()
    assert len(under_test.outputs.get("a", [])) == said
    assert under_test.tokens("b") == tokens_alone(make_request("b", 9, 8), max_model_len=MAX_MODEL_LEN)
    assert under_test.engine.counters.num_finished_by_reason == {"abort": 1, "length": 1}
    assert under_test.engine.scheduler.pool.num_owned == 0


def test_cancelling_an_unknown_request_does_nothing():
    under_test = make_engine()
    under_test.engine.cancel("nobody")
    assert under_test.engine.counters.num_finished_by_reason == {}


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("policy", ["static", "continuous"])
def test_a_step_that_raises_fails_the_requests_in_it_and_the_engine_goes_on(policy: str):
    under_test = make_engine(policy=policy, max_num_seqs=2)
    for name in ("a", "b", "c"):
        under_test.engine.add(make_request(name, 4, 3))
    under_test.runner.fail_on_step = 2
    under_test.run()
    for name in ("a", "b"):
        assert under_test.finish_reason(name) == "error"
        assert "told to fail" in (under_test.outputs[name][-1].error or "")
    assert under_test.finish_reason("c") == "length"
    assert under_test.tokens("c") == tokens_alone(make_request("c", 4, 3), max_model_len=MAX_MODEL_LEN)
    assert under_test.engine.counters.num_finished_by_reason == {"error": 2, "length": 1}
    assert under_test.engine.scheduler.pool.num_owned == 0


@pytest.mark.parametrize("policy", ["static", "continuous"])
def test_unusable_logits_fail_that_request_alone(policy: str):
    under_test = make_engine(policy=policy, max_num_seqs=2)
    under_test.sampler.broken = {"a"}
    for name in ("a", "b"):
        under_test.engine.add(make_request(name, 4, 3))
    under_test.run()
    assert under_test.finish_reason("a") == "error"
    assert "NaN" in (under_test.outputs["a"][-1].error or "")
    assert under_test.tokens("b") == tokens_alone(make_request("b", 4, 3), max_model_len=MAX_MODEL_LEN)


# ---------------------------------------------------------------- what is reported


def test_log_probabilities_of_the_prompt_come_whole_with_the_first_output_and_once_even_after_a_preemption():
    under_test = make_engine(num_blocks=6, block_size=2, max_model_len=12, max_num_batched_tokens=4)
    under_test.runner.forward = _with_prompt_logits(under_test.runner.forward)  # type: ignore[method-assign]
    under_test.sampler.prompt_logprobs = _positions  # type: ignore[method-assign]
    for name in ("a", "b"):
        under_test.engine.add(make_request(name, 5, 6, num_prompt_logprobs=0))
    under_test.run()
    assert under_test.engine.counters.num_preemptions >= 1
    for name in ("a", "b"):
        first, *rest = under_test.outputs[name]
        assert [score and score.token_id for score in first.prompt_logprobs or []] == [
            None,
            *make_request(name, 5).prompt_token_ids[1:],
        ]
        assert all(output.prompt_logprobs is None for output in rest)


def _with_prompt_logits(forward):
    def with_prompt_logits(plan):
        logits = forward(plan)
        for index, item in enumerate(plan.scheduled):
            if item.start < item.sequence.num_prompt_tokens:
                logits.prompt[index] = None
        return logits

    return with_prompt_logits


def _positions(logits, plan):
    scores = {}
    for index in logits.prompt:
        item = plan.scheduled[index]
        end = min(item.start + item.num_new_tokens + 1, item.sequence.num_prompt_tokens)
        known = item.sequence.token_ids[item.start + 1 : end]
        scores[index] = [PositionLogprobs(token, -1.0, [], []) for token in known]
    return scores


def test_time_is_busy_while_a_request_waits_or_runs_and_in_the_model_while_it_computes():
    under_test = make_engine(policy="static", static_batch_timeout_s=5.0, step_s=2.0)
    under_test.clock.instant += 10
    under_test.engine.add(make_request("a", 4, 3))
    under_test.run()
    under_test.clock.instant += 10
    counters = under_test.engine.counters
    assert counters.busy_s == 5 + 3 * 2
    assert counters.model_s == counters.step_s == 3 * 2
    assert counters.num_steps == 3


def test_drawing_tokens_is_counted_apart_from_the_model_and_from_the_rest_of_the_step(monkeypatch):
    under_test = make_engine(step_s=2.0)
    sample = under_test.sampler.sample

    def slow_sample(logits, plan):
        under_test.clock.instant += 0.5
        return sample(logits, plan)

    monkeypatch.setattr(under_test.sampler, "sample", slow_sample)
    finished(under_test, make_request("a", 4, 3))
    counters = under_test.engine.counters
    assert (counters.model_s, counters.sample_s, counters.step_s) == (3 * 2, 3 * 0.5, 3 * 2.5)


def test_an_arrival_stamped_before_the_engine_heard_of_it_counts_as_waiting():
    under_test = make_engine()
    under_test.engine.add(make_request("a", 4, 1, arrived_at=97.5))
    under_test.run()
    assert under_test.engine.counters.batch_wait_s == 2.5


def test_the_first_output_and_no_other_tells_how_long_the_request_waited():
    under_test = make_engine(policy="continuous", max_num_seqs=1)
    for name in ("first", "second"):
        under_test.engine.add(make_request(name, 4, 2, arrived_at=97.5))
    outputs: list[EngineOutput] = []
    while under_test.engine.has_work:
        outputs += under_test.engine.step()
        under_test.clock.instant += 10
    waited = [(output.request_id, output.queue_s) for output in outputs]
    assert [name for name, _ in waited] == ["first", "first", "second", "second"]
    assert [queue_s for _, queue_s in waited][1::2] == [None, None]
    assert waited[0][1] == 2.5
    assert waited[2][1] is not None
    assert waited[2][1] >= 22.5
