"""Blocks that were computed before are found again, and nothing else is taken for them."""

from __future__ import annotations

import pytest
from engine_fakes import make_engine, make_request, prompt_of, tokens_alone

PREFIX = prompt_of("a long system prompt", 12)


def num_computed(under_test, request_id: str) -> int:
    """Positions that were computed for a request, over all steps."""
    return sum(new for plan in under_test.runner.plans for name, _, new, _, _ in plan if name == request_id)


def run(under_test, *requests):
    for request in requests:
        under_test.engine.add(request)
        under_test.run()
    return under_test.engine.counters


def with_prefix(request_id: str, *suffix: int, **fields):
    prompt = [*PREFIX, *suffix]
    return make_request(request_id, len(prompt), 3, prompt_token_ids=prompt, **fields)


def test_a_prefix_that_was_computed_before_is_not_computed_again() -> None:
    under_test = make_engine(block_size=4)
    first, second = with_prefix("first", 1, 2), with_prefix("second", 3, 4, 5)
    counters = run(under_test, first, second)
    assert (num_computed(under_test, "first"), num_computed(under_test, "second")) == (14 + 2, 3 + 2)
    assert under_test.outputs["second"][0].num_cached_tokens == 12
    assert (counters.num_prefix_queried_tokens, counters.num_prefix_hit_tokens) == (14 + 15, 12)
    for request in (first, second):
        assert under_test.tokens(request.request_id) == tokens_alone(request, max_model_len=64)


def test_an_output_is_part_of_the_next_prompt_of_a_conversation() -> None:
    under_test = make_engine(block_size=4)
    first = with_prefix("first")
    run(under_test, first)
    conversation = [*PREFIX, *under_test.tokens("first")[:2], 7]
    run(under_test, make_request("second", 0, 1, prompt_token_ids=[*conversation, 8, 9]))
    assert under_test.outputs["second"][0].num_cached_tokens == 12
    assert num_computed(under_test, "second") == len(conversation) + 2 - 12


def test_the_last_token_is_computed_even_when_the_whole_prompt_is_known() -> None:
    under_test = make_engine(block_size=4)
    run(under_test, with_prefix("first"), with_prefix("second"))
    assert under_test.outputs["second"][0].num_cached_tokens == 8, "the block of the last token is computed again"
    assert under_test.tokens("first") == under_test.tokens("second")


def test_equal_tokens_behind_another_beginning_are_another_prefix() -> None:
    under_test = make_engine(block_size=4)
    other = make_request("other", 13, 3, prompt_token_ids=[5, *PREFIX[1:], 1])
    run(under_test, with_prefix("first", 1), other)
    assert under_test.outputs["other"][0].num_cached_tokens == 0
    assert under_test.tokens("other") == tokens_alone(other, max_model_len=64)


def test_another_salt_shares_nothing() -> None:
    under_test = make_engine(block_size=4)
    run(
        under_test,
        with_prefix("a", 1),
        with_prefix("b", 1, cache_salt="tenant"),
        with_prefix("c", 1, cache_salt="tenant"),
    )
    assert [under_test.outputs[name][0].num_cached_tokens for name in "abc"] == [0, 0, 12]


def test_who_asks_for_the_log_probabilities_of_the_prompt_has_it_computed() -> None:
    under_test = make_engine(block_size=4)
    run(under_test, with_prefix("first", 1), with_prefix("scored", 1, num_prompt_logprobs=0))
    assert under_test.outputs["scored"][0].num_cached_tokens == 0


def test_two_running_requests_share_the_blocks_of_their_prefix() -> None:
    under_test = make_engine(block_size=4, num_blocks=12)
    run(under_test, with_prefix("first", 1))
    for name in ("a", "b", "c"):
        under_test.engine.add(with_prefix(name, ord(name) - 90))
    under_test.step()
    assert under_test.engine.counters.num_running == 3
    assert under_test.engine.scheduler.pool.num_owned == 3 + 3, "three blocks of the prefix, and one for each"
    under_test.run()


def test_blocks_that_are_needed_are_taken_from_the_prefix_used_longest_ago() -> None:
    under_test = make_engine(block_size=4, num_blocks=10, max_model_len=40)
    texts = {name: make_request(name, 13, 1, prompt_token_ids=[*prompt_of(name, 12), 1]) for name in "ab"}
    run(under_test, texts["a"], texts["b"])
    again = [make_request(f"again {name}", 0, 1, prompt_token_ids=texts[name].prompt_token_ids) for name in "ba"]
    big = make_request("big", 18, 1)  # five blocks: four are free, and one of a's goes
    counters = run(under_test, big, *again)
    assert counters.num_prefix_evicted_blocks >= 1
    assert under_test.outputs["again b"][0].num_cached_tokens == 12
    assert under_test.outputs["again a"][0].num_cached_tokens < 12


def test_a_preempted_request_goes_on_from_what_is_still_there() -> None:
    requests = [make_request(name, 6, 12) for name in ("one", "two", "three")]

    def computed(*, enable_prefix_caching: bool) -> int:
        under_test = make_engine(
            block_size=2, num_blocks=20, max_model_len=24, enable_prefix_caching=enable_prefix_caching
        )
        for request in requests:
            under_test.engine.add(request)
        under_test.run()
        assert under_test.engine.counters.num_preemptions > 0
        for request in requests:
            assert under_test.tokens(request.request_id) == tokens_alone(request, max_model_len=24)
        return under_test.engine.counters.num_computed_tokens

    assert computed(enable_prefix_caching=True) <= computed(enable_prefix_caching=False)


def test_what_a_failed_step_left_behind_is_never_found() -> None:
    under_test = make_engine(block_size=4)
    run(under_test, with_prefix("first", 1))
    under_test.sampler.broken.add("second")
    run(under_test, with_prefix("second", 1, 2))
    assert under_test.finish_reason("second") == "error"
    run(under_test, with_prefix("third", 1))
    assert under_test.outputs["third"][0].num_cached_tokens == 0


def test_after_a_reset_nothing_is_found_and_running_requests_go_on() -> None:
    under_test = make_engine(block_size=4)
    running = with_prefix("running", 1)
    under_test.engine.add(running)
    under_test.step()
    under_test.engine.reset_prefix_cache()
    under_test.run()
    assert under_test.tokens("running") == tokens_alone(running, max_model_len=64)
    under_test.engine.reset_prefix_cache()
    run(under_test, with_prefix("after", 1))
    assert under_test.outputs["after"][0].num_cached_tokens == 0
    assert under_test.engine.scheduler.prefix_cache.num_blocks == 3


@pytest.mark.parametrize("settings", [{"enable_prefix_caching": False}, {"policy": "static"}])
def test_without_the_setting_and_in_static_batches_everything_is_computed(settings: dict[str, object]) -> None:
    under_test = make_engine(block_size=4, **settings)
    counters = run(under_test, with_prefix("first", 1), with_prefix("second", 1))
    assert under_test.outputs["second"][0].num_cached_tokens == 0
    assert counters.num_prefix_queried_tokens == 0


def test_those_whose_prefix_is_known_all_come_in_with_one_step() -> None:
    """Their prompts would take eight steps; what is left of them to compute fits in one."""
    under_test = make_engine(block_size=4, max_num_seqs=8, max_num_batched_tokens=16, num_blocks=200)
    run(under_test, with_prefix("first", 1))
    for index in range(8):
        under_test.engine.add(with_prefix(f"r{index}", index + 1, index + 2))
    under_test.step()
    assert under_test.engine.counters.num_running == 8
    assert all(len(under_test.tokens(f"r{index}")) == 1 for index in range(8))


def test_an_output_that_is_resumed_is_no_part_of_the_prompt_that_was_found() -> None:
    under_test = make_engine(block_size=4)
    first = make_request("first", 6, 20)
    run(under_test, first)
    rest = make_request("rest", prompt_token_ids=first.prompt_token_ids, max_tokens=20,
                        resume_token_ids=under_test.tokens("first")[:14])  # fmt: skip
    counters = run(under_test, rest)
    assert under_test.outputs["rest"][0].num_cached_tokens == 6, "no more than the prompt has tokens"
    assert counters.num_prefix_hit_tokens == 16
    assert under_test.tokens("rest") == under_test.tokens("first")[14:]
