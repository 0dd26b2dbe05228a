"""Prompt lookup: what is found, what is not, and that looking never starts over."""

from __future__ import annotations

import random

import pytest
from engine_fakes import make_request

from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.ngram import MAX_NUM_PLACES, NgramProposer
from enginebay.engine.speculation.proposer import Wanted


def sequence_of(token_ids: list[int]) -> Sequence:
    return Sequence(make_request("a", prompt_token_ids=token_ids), arrived_at=0.0)


def proposed(sequence: Sequence, num_tokens: int, **settings: int) -> list[int]:
    [draft] = NgramProposer(**settings).propose([Wanted(sequence, num_tokens)])
    assert draft.probabilities is None
    return draft.token_ids


@pytest.mark.parametrize(
    ("token_ids", "num_tokens", "draft"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 5, 6, 7, 1, 2], 2, []),
        ([1, 2, 3], 2, []),
        ([1, 2], 2, []),
        ([7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3], 1, [4]),  # 7 1 2 3 has been once, 1 2 3 later
        ([1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3], 1, [5]),  # of equals the latest
        ([9, 1, 2, 3, 1, 2, 3], 5, [1, 2, 3, 1, 2]),  # it goes on repeating itself
        ([5, 5, 5, 5], 3, [5, 5, 5]),
    ],
)
def test_what_came_after_the_longest_ngram_that_has_been_before_is_proposed(
    token_ids: list[int], num_tokens: int, draft: list[int]
) -> None:
    assert proposed(sequence_of(token_ids), num_tokens) == draft


def plain_find(token_ids: list[int], ngram_min: int, ngram_max: int) -> list[int]:
    """Everything after the place, by looking at all of them."""
    found: list[int] = []
    for length in range(ngram_min, ngram_max + 1):
        ending = token_ids[-length:]
        places = [at for at in range(length, len(token_ids)) if token_ids[at - length : at] == ending]
        if places:
            found = token_ids[places[-1] :]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_growing_sequence_finds_what_looking_at_everything_finds(seed: int) -> None:
    rng = random.Random(seed)
    sequence = sequence_of([rng.randrange(4) for _ in range(rng.randrange(1, 12))])
    for _ in range(60):
        if rng.random() < 0.7:
            expected = plain_find(sequence.token_ids, 3, 3)[:2]
            assert proposed(sequence, 2, ngram_max=3)[: len(expected)] == expected
        sequence.token_ids += [rng.randrange(4) for _ in range(rng.randrange(1, 4))]


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_of_all_places_is_found_where_they_are_few(seed: int) -> None:
    rng = random.Random(seed)
    sequence = sequence_of([rng.randrange(3) for _ in range(MAX_NUM_PLACES + 4)])
    expected = plain_find(sequence.token_ids, 3, 6)[:1]
    assert proposed(sequence, 1, ngram_max=6) == expected


def test_tokens_that_were_looked_at_are_not_looked_at_again() -> None:
    sequence = sequence_of(list(range(1, 50)))
    proposed(sequence, 2)
    assert sequence.ngram_index is not None
    first = sequence.ngram_index
    sequence.token_ids += [1, 2, 3]
    sequence.token_ids[20] = 0  # nobody notices
    assert proposed(sequence, 2) == [4, 5]
    assert sequence.ngram_index is first
