"""Two engines are given the same prompts: do they say the same, and does rounding explain where they do not?"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from enginebay.loadtest.answers import Answer
from enginebay.report.verdict_words import agreement_words
from enginebay.types import TokenAlternative, TokenLogprob
from enginebay.verdict.outputs.agreement import OutputAgreement, output_agreement
from enginebay.verdict.outputs.bounds import bound_for
from enginebay.verdict.outputs.parting import END

BFLOAT16 = bound_for({"dtype": "bfloat16"})


def answer(index: int, token_ids: Sequence[int], *, gaps: dict[int, tuple[int, float]] | None = None) -> Answer:
    """gaps: by position, a rival token and by how much it is less likely than the one that was chosen."""
    logprobs = None
    if gaps is not None:
        logprobs = tuple(_logprob(token_id, gaps.get(position)) for position, token_id in enumerate(token_ids))
    text = " ".join(f"w{token_id}" for token_id in token_ids)
    return Answer(index=index, text=text, num_tokens=len(token_ids), token_ids=tuple(token_ids), logprobs=logprobs)


def _logprob(token_id: int, rival: tuple[int, float] | None) -> TokenLogprob:
    alternatives = (TokenAlternative(token_id, f"w{token_id}", -1.0),)
    if rival is not None:
        alternatives += (TokenAlternative(rival[0], f"w{rival[0]}", -1.0 - rival[1]),)
    return TokenLogprob(token_id, f"w{token_id}", -1.0, alternatives)


def agreement(one: Sequence[Answer], other: Sequence[Answer], **more: object) -> OutputAgreement:
    return output_agreement(one, other, first="a", second="b", where="1 user", **{"bound": BFLOAT16, **more})


def test_equal_answers_agree_in_every_token() -> None:
    answers = [answer(index, [index, 5, 6]) for index in range(4)]
    found = agreement(answers, answers)
    assert (found.agreement_ratio, found.num_prompts_that_part, found.is_beyond_bound) == (1.0, 0, False)
    assert found.finding == "b said the same as a to all 4 prompts"


def test_what_comes_after_the_first_difference_does_not_count_as_agreement() -> None:
    found = agreement([answer(0, [1, 2, 3, 4, 5])], [answer(0, [1, 2, 9, 4, 5])])
    assert (found.num_agreeing_units, found.num_units, found.agreement_ratio) == (2, 5, 0.4)
    assert found.partings[0].position == 2


def test_an_answer_that_ends_earlier_parts_where_it_ends() -> None:
    found = agreement([answer(0, [1, 2])], [answer(0, [1, 2, 3, 4])])
    assert (found.partings[0].position, found.partings[0].first) == (2, END)
    assert found.num_units == 4


def test_a_request_that_one_side_did_not_answer_is_left_out() -> None:
    found = agreement([answer(0, [1]), answer(1, [1])], [answer(1, [1]), answer(2, [7])])
    assert (found.num_prompts, found.num_prompts_that_part) == (1, 0)
    assert agreement([answer(0, [1])], [answer(1, [1])]).not_compared


def parting_by(first_gap: float, second_gap: float, *, num_prompts: int) -> OutputAgreement:
    """At the third token of every prompt, each engine preferring its own token by so much."""
    one = [answer(index, [1, 2, 3], gaps={2: (4, first_gap)}) for index in range(num_prompts)]
    other = [answer(index, [1, 2, 4], gaps={2: (3, second_gap)}) for index in range(num_prompts)]
    return agreement(one, other)


def test_many_partings_at_ties_are_rounding() -> None:
    found = parting_by(0.0, 0.25, num_prompts=40)
    assert (found.num_known_differences, found.largest_difference, found.num_unexplained) == (40, 0.25, 0)
    assert not found.is_beyond_bound
    assert "no further than rounding in bfloat16 explains" in found.finding


def test_the_gaps_of_both_engines_add_up_to_their_disagreement() -> None:
    assert not parting_by(0.25, 0.25, num_prompts=4).is_beyond_bound
    found = parting_by(0.25, 0.26, num_prompts=4)
    assert found.num_unexplained == 4
    assert found.is_beyond_bound
    assert "they do not compute the same" in found.finding


def test_a_rival_that_was_not_among_the_alternatives_was_at_least_as_far_away_as_the_last_of_them() -> None:
    one = [answer(index, [1, 3], gaps={1: (7, 2.0)}) for index in range(3)]
    other = [answer(index, [1, 4], gaps={1: (8, 0.0)}) for index in range(3)]
    found = agreement(one, other)
    assert found.partings[0].is_lower_limit
    assert found.partings[0].first_gap == 2.0
    assert found.is_beyond_bound


def test_alternatives_that_are_told_as_text_alone_are_found_by_their_text() -> None:
    def said(token_id: int, rival: int) -> Answer:
        rated = ((rival, -1.1), (9, -7.0))
        alternatives = tuple(TokenAlternative(None, f"w{each}", logprob) for each, logprob in rated)
        logprob = TokenLogprob(token_id, f"w{token_id}", -1.0, alternatives)
        return Answer(index=0, text=f"w{token_id}", num_tokens=1, token_ids=(token_id,), logprobs=(logprob,))

    (parting,) = agreement([said(1, 2)], [said(2, 1)]).partings
    assert (parting.difference, parting.is_lower_limit) == (pytest.approx(0.2), False)


def walks(parting_rate: float, *, num_prompts: int = 100, num_tokens: int = 64) -> OutputAgreement:
    """Without log-probabilities; at each token the second engine goes another way with that probability."""
    rng = random.Random(7)
    one = [answer(index, range(num_tokens)) for index in range(num_prompts)]
    other = []
    for index in range(num_prompts):
        position = next((token for token in range(num_tokens) if rng.random() < parting_rate), num_tokens)
        other.append(answer(index, [*range(position), *range(1000, 1000 + num_tokens - position)]))
    return agreement(one, other)


def test_without_logprobs_the_number_of_partings_decides() -> None:
    usual, unusual = walks(0.013), walks(0.10)
    assert not usual.is_beyond_bound
    assert unusual.is_beyond_bound
    low, high = unusual.partings_per_token_interval or (0, 0)
    assert low < 0.10 < high
    assert "oftener than rounding" in unusual.finding


def test_float32_is_held_to_a_narrower_bound_than_bfloat16() -> None:
    float32 = bound_for({"dtype": "float32"}, {"dtype": "torch.float32"})
    assert (float32.dtype, float32.max_difference) == ("float32", 0.001)
    one = [answer(index, [1, 3], gaps={1: (4, 0.0)}) for index in range(3)]
    other = [answer(index, [1, 4], gaps={1: (3, 0.125)}) for index in range(3)]
    assert agreement(one, other, bound=float32).is_beyond_bound
    assert not agreement(one, other).is_beyond_bound


def test_the_coarser_type_sets_the_bound() -> None:
    assert bound_for({"dtype": "float32"}, {"dtype": "bfloat16"}).dtype == "bfloat16"
    assert bound_for({"dtype": "float32"}, {}).dtype == "bfloat16"


class WordTokenizer:
    def encode(self, text: str) -> list[int]:
        return self.encode_plain(text)

    def encode_plain(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(f"w{token_id}" for token_id in token_ids)


def without_ids(answer: Answer) -> Answer:
    return Answer(index=answer.index, text=answer.text, num_tokens=answer.num_tokens)


def test_where_an_engine_gives_text_alone_the_texts_are_cut_into_tokens() -> None:
    one, other = answer(0, [11, 12, 13, 14]), without_ids(answer(0, [11, 12, 15, 14]))
    found = agreement([one], [other], tokenizer=WordTokenizer())
    assert (found.unit, found.partings[0].position, found.partings[0].second) == ("retokenized", 2, "w15")
    assert found.agreement_ratio == 0.5


def test_without_a_tokenizer_the_texts_are_compared_by_character() -> None:
    one, other = answer(0, [11, 12, 13, 14]), without_ids(answer(0, [11, 12, 15, 14]))
    found = agreement([one], [other])
    assert (found.unit, found.partings[0].position) == ("characters", len("w11 w12 w1"))
    assert (found.partings[0].first, found.partings[0].second) == ("3", "5")
    assert found.num_agreeing_units == 10


def test_saved_counts_of_texts_stand_in_for_a_tokenizer_and_characters_are_named_where_there_are_none() -> None:
    def said(text: str, retokenized_ids: tuple[int, ...] | None) -> Answer:
        return Answer(index=0, text=text, num_tokens=3, retokenized_ids=retokenized_ids)

    counted = agreement([said("one two six", (1, 2, 6))], [said("one two ten", (1, 2, 10))])
    assert (counted.unit, counted.num_units, counted.num_agreeing_units) == ("retokenized", 3, 2)
    assert "by character" not in agreement_words(counted)
    bare = agreement([said("one two six", None)], [said("one two ten", (1, 2, 10))])
    assert (bare.unit, bare.num_units, bare.num_agreeing_units) == ("characters", 11, 8)
    assert "compared by character" in agreement_words(bare)


def test_the_words_say_which_load_they_are_about() -> None:
    part = agreement([answer(0, [1, 5, 6])], [answer(0, [1, 5, 7])])
    assert agreement_words(msgspec.structs.replace(part, where="8 users")).startswith("Outputs, 8 users: b parted")
    assert agreement_words(msgspec.structs.replace(part, where="")).startswith("b against a: b parted")
    silent = OutputAgreement(first="a", second="b", where="8 users", not_compared="nobody asked")
    assert agreement_words(silent) == "b against a (8 users): outputs not compared: nobody asked."
