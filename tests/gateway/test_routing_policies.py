"""Which replica gets a request: distribution, bounds, and what happens when replicas come and go."""

import tracemalloc
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_of_fakes import a_call, a_request

from enginebay.gateway.routing.prefix_index import PrefixIndex
from enginebay.gateway.routing.registry import BUILT_IN, make_policy
from enginebay.types import Chat, GenerationRequest, Message, SamplingParams, TextPart, TokenIds

NONE = a_call(a_request())


@dataclass
class Place:
    name: str
    num_in_flight: int = 0
    weight: float = 1.0

    @property
    def load(self):
        return self.num_in_flight / self.weight


def places(*in_flight, weights=()):
    found = [Place(f"r{index}", number) for index, number in enumerate(in_flight)]
    for place, weight in zip(found, weights, strict=False):
        place.weight = weight
    return found


def policy(name, **options):
    return make_policy(name, options, Random(7))


def shares(chooser, candidates, requests):
    return Counter(chooser.choose(NONE, request, candidates).name for request in requests)


def sessions(number):
    return [a_request(session_key=f"session {n}") for n in range(number)]


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=30, deadline=None)
@given(
    in_flight=st.lists(st.integers(0, 500), min_size=1, max_size=8),
    seed=st.integers(0, 2**16),
    session=st.one_of(st.none(), st.text(max_size=8)),
)
def test_every_policy_gives_one_of_the_candidates_whatever_their_load(name, in_flight, seed, session):
    rng = Random(seed)
    candidates = places(*in_flight, weights=[rng.choice([0.1, 1.0, 7.0]) for _ in in_flight])
    chooser = policy(name)
    for _ in range(5):
        available = rng.sample(candidates, rng.randint(1, len(candidates)))
        chosen = chooser.choose(NONE, a_request("p " * 200, session_key=session), available)
        assert any(chosen is candidate for candidate in available)
        chooser.released(chosen)


def test_least_loaded_takes_the_lowest_load_for_its_weight_and_draws_among_equals():
    chooser = policy("least_loaded")
    assert chooser.choose(NONE, a_request(), places(4, 2, 3)).name == "r1"
    assert chooser.choose(NONE, a_request(), places(4, 2, 3, weights=[4.0, 1.0, 1.0])).name == "r0"
    drawn = shares(chooser, places(1, 1, 5, 1), [a_request()] * 3000)
    assert set(drawn) == {"r0", "r1", "r3"}
    assert all(900 < number < 1100 for number in drawn.values())


def test_power_of_two_never_takes_the_fullest_and_spreads_the_rest():
    drawn = shares(policy("power_of_two"), places(9, 5, 5, 0), [a_request()] * 6000)
    assert drawn["r0"] == 0
    # r3 wins each pair that it is in, which is half of them; the two in the middle share the other half
    assert drawn["r3"] == pytest.approx(3000, rel=0.06)
    assert drawn["r1"] == pytest.approx(drawn["r2"], rel=0.15)


def test_round_robin_is_exact_in_every_round_and_smooth_within_it():
    chooser = policy("round_robin")
    candidates = places(0, 0, 0, weights=[5.0, 1.0, 1.0])
    names = "".join(chooser.choose(NONE, a_request(), candidates).name[1] for _ in range(14))
    assert Counter(names[:7]) == Counter(names[7:]) == {"0": 5, "1": 1, "2": 1}
    assert "0000" not in names[:7]


def test_round_robin_keeps_nothing_of_replicas_that_went_away():
    chooser = policy("round_robin")
    for number in range(200):
        chooser.choose(NONE, a_request(), [Place(f"r{number}"), Place(f"r{number + 1}")])
    assert len(chooser._credit) == 2


def test_a_session_stays_where_it_is_and_only_those_of_a_lost_replica_move():
    chooser = policy("consistent_hash")
    candidates = places(0, 0, 0, 0)
    before = {request.session_key: chooser.choose(NONE, request, candidates).name for request in sessions(2000)}
    again = {request.session_key: chooser.choose(NONE, request, candidates).name for request in sessions(2000)}
    assert before == again
    assert all(400 < number < 600 for number in Counter(before.values()).values())
    after = {request.session_key: chooser.choose(NONE, request, candidates[:3]).name for request in sessions(2000)}
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "r3"}


def test_only_the_sessions_of_a_lost_replica_move_also_where_it_was_the_lightest():
    chooser = policy("consistent_hash")
    candidates = places(0, 0, 0, weights=[1.0, 2.0, 3.0])
    before = {request.session_key: chooser.choose(NONE, request, candidates).name for request in sessions(2000)}
    after = {request.session_key: chooser.choose(NONE, request, candidates[1:]).name for request in sessions(2000)}
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "r0"}


def test_two_gateways_send_a_session_to_the_same_replica():
    one, other = policy("consistent_hash"), make_policy("consistent_hash", {}, Random(99))
    for request in sessions(100):
        assert one.choose(NONE, request, places(0, 0, 0)).name == other.choose(NONE, request, places(0, 0, 0)).name


def test_a_popular_session_spills_over_before_its_replica_holds_more_than_its_share():
    chooser = policy("consistent_hash", max_load_ratio=1.25)
    candidates = places(0, 0, 0, 0)
    for _ in range(400):
        chooser.choose(NONE, a_request(session_key="everyone"), candidates).num_in_flight += 1
    assert max(place.num_in_flight for place in candidates) <= 1.25 * 100 + 1


def test_rings_of_sets_of_replicas_long_gone_are_forgotten():
    chooser = policy("consistent_hash")
    for number in range(100):
        chooser.choose(NONE, a_request(session_key="s"), [Place(f"r{number}"), Place("other")])
    assert len(chooser._rings) == 32


def long_prompt(topic, tail=""):
    return f"{topic} " * 400 + tail


def test_prompts_with_one_beginning_go_to_one_replica_and_others_spread():
    chooser = policy("prefix_aware")
    candidates = places(0, 0, 0)
    homes = {
        topic: {
            chooser.choose(NONE, a_request(long_prompt(topic, f"question {n}")), candidates).name for n in range(20)
        }
        for topic in ("law", "medicine", "cooking", "sailing", "chess", "opera")
    }
    assert all(len(names) == 1 for names in homes.values())
    assert len(set.union(*homes.values())) > 1


def test_the_longest_beginning_decides():
    chooser = policy("prefix_aware")
    first, second = places(0, 0)
    shared, branch = long_prompt("shared"), long_prompt("branch")
    chooser.choose(NONE, a_request(shared), [first])
    chooser.choose(NONE, a_request(shared + branch), [second])
    assert chooser.choose(NONE, a_request(shared + branch + "and more"), [first, second]) is second


def test_a_popular_beginning_makes_no_hot_spot():
    chooser = policy("prefix_aware", max_load_ratio=1.5, slack=4)
    candidates = places(0, 0, 0, 0)
    for _ in range(400):
        chooser.choose(NONE, a_request(long_prompt("popular")), candidates).num_in_flight += 1
    assert max(place.num_in_flight for place in candidates) <= 1.5 * 100 + 4 + 1
    assert min(place.num_in_flight for place in candidates) > 0


def test_what_it_remembers_is_bounded_and_the_oldest_goes_first():
    chooser = policy("prefix_aware", max_blocks=500)
    first, second = places(0, 0)
    chooser.choose(NONE, a_request(long_prompt("old")), [first])
    for number in range(300):
        chooser.choose(NONE, a_request(long_prompt(f"topic {number}")), [second])
    assert 250 <= chooser.num_blocks <= 500
    first.num_in_flight = second.num_in_flight = 0
    chooser.choose(NONE, a_request(long_prompt("topic 299")), [first, second])
    assert chooser.choose(NONE, a_request(long_prompt("topic 299")), [first, second]) is second


def test_a_prompt_of_any_length_costs_a_bounded_number_of_blocks():
    chooser = policy("prefix_aware", max_blocks_of_prompt=8)
    chooser.choose(NONE, a_request("x" * 1_000_000), places(0))
    assert chooser.num_blocks == 8


def test_salts_and_adapters_share_no_beginning():
    chooser = policy("prefix_aware")
    first, second = places(0, 0)
    chooser.choose(NONE, a_request(long_prompt("law"), cache_salt="a"), [first])
    second.num_in_flight = 0
    first.num_in_flight = 1
    assert chooser.choose(NONE, a_request(long_prompt("law"), cache_salt="a"), [first, second]) is first
    assert chooser.choose(NONE, a_request(long_prompt("law"), cache_salt="b"), [first, second]) is second


def test_nobody_outside_can_make_blocks_of_token_ids_that_count_as_the_same():
    """In Python -1 and -2 have one hash, and so have tuples of them: a hash without a key can be met on purpose."""
    chooser = policy("prefix_aware", block_characters=16)
    for token in (-1, -2):
        request = GenerationRequest(
            request_id="r", prompt=TokenIds((token,) * 4), sampling=SamplingParams(max_tokens=1)
        )
        chooser.choose(NONE, request, places(0, 0))
    assert chooser.num_blocks == 2


def test_token_ids_that_are_none_are_left_to_whoever_refuses_them():
    prompt = TokenIds((2**63, -1))
    request = GenerationRequest(request_id="r", prompt=prompt, sampling=SamplingParams(max_tokens=1))
    assert policy("prefix_aware").choose(NONE, request, places(0, 0)).name in ("r0", "r1")


def test_conversations_and_token_ids_have_beginnings_too():
    def asks(prompt):
        return GenerationRequest(request_id="r", prompt=prompt, sampling=SamplingParams(max_tokens=1))

    system = Message("system", long_prompt("be kind"))
    pairs = [
        (
            Chat((system, Message("user", "hi"))),
            Chat((system, Message("user", (TextPart("something else"),)))),
        ),
        (TokenIds(tuple(range(500))), TokenIds((*range(500), 7))),
    ]
    for first_prompt, second_prompt in pairs:
        chooser = policy("prefix_aware")
        first, second = places(0, 0)
        chooser.choose(NONE, asks(first_prompt), [first])
        first.num_in_flight = 1
        assert chooser.choose(NONE, asks(second_prompt), [first, second]) is first


@pytest.mark.parametrize("max_blocks", [1, 2, 3, 10, 11])
def test_an_index_of_beginnings_never_holds_more_and_always_knows_the_last_half(max_blocks):
    index = PrefixIndex(max_blocks)
    for block in range(200):
        index.remember([block % 50], f"r{block}")
        assert index.num_blocks <= max_blocks
        for recent in range(max(0, block - (max_blocks + 1) // 2 + 1), block + 1):
            assert index.replica_of(recent % 50) == f"r{recent}"
    assert index.replica_of(20) is None


def test_of_one_prompt_the_shortest_beginning_is_forgotten_last():
    index = PrefixIndex(8)
    index.remember([1, 2, 3, 4, 5], "r")
    index.remember([101, 102, 103], "s")
    assert [index.replica_of(block) for block in (5, 1)] == [None, "r"]


def test_what_an_index_holds_in_memory_stays_as_it_is_however_often_it_is_turned_over():
    index = PrefixIndex(10_000)
    held_bytes = []
    tracemalloc.start()
    try:
        for turn in range(12):
            for block in range(10_000):
                index.remember([hash((turn, block))], "r")
            held_bytes.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.reset_peak()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(held_bytes[1:]) <= 1.05 * min(held_bytes[1:])
    assert max(*held_bytes, peak_bytes) < 10_000 * 150
