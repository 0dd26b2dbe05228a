"""Servers that run on between two starts, and servers whose tokenizer nobody has."""

from __future__ import annotations

from enginebay.config.bench import BenchConfig
from enginebay.loadtest.estimated_tokenizer import EstimatedTokenizer
from enginebay.loadtest.from_config import plan_from_config
from enginebay.loadtest.plan import Plan


def plan(*, starts: int, runs_already: bool) -> Plan:
    settings = BenchConfig.model_validate(
        {"users": [1, 2], "num_requests": 6, "starts": starts, "prompt_counts": "estimated", "warmup_requests": 2}
    )
    return plan_from_config(settings, model="any", tokenizer=EstimatedTokenizer(), runs_already=runs_already)


def prompts(planned) -> list[str]:
    return [request.text for load in planned for request in (*load.warmup, *load.requests)]


def test_a_server_that_remembers_is_asked_nothing_twice_and_the_same_lengths_at_every_start() -> None:
    made = plan(starts=3, runs_already=True)
    starts = [made.loads_of_start(number) for number in range(3)]
    assert [[str(load.load) for load in start] for start in starts] == [["1 user", "2 users"]] * 3
    everything = [text for start in starts for text in prompts(start)]
    assert len(set(everything)) == len(everything) == 3 * 2 * (6 + 2)
    lengths = [[request.num_prompt_tokens for load in start for request in load.requests] for start in starts]
    assert lengths[0] == lengths[1] == lengths[2]


def test_engines_that_are_started_anew_get_the_same_prompts_each_time() -> None:
    made = plan(starts=3, runs_already=False)
    assert len(made.loads) == 2
    assert made.loads_of_start(0) == made.loads_of_start(2) == made.loads
    assert plan(starts=1, runs_already=True).loads == plan(starts=1, runs_already=False).loads


def test_lengths_that_are_only_estimated_say_so() -> None:
    assert {load.prompt_counts for load in plan(starts=1, runs_already=False).loads} == {"estimated"}
    assert plan(starts=1, runs_already=False).workload.endswith("lengths of prompts estimated")


def test_the_estimate_cuts_text_into_pieces_that_give_it_back() -> None:
    tokenizer = EstimatedTokenizer()
    text = "The harbour-master's lantern, unextinguished, burned till 4:30."
    pieces = tokenizer.encode(text)
    assert tokenizer.decode(pieces) == text
    assert 14 <= len(pieces) <= 24  # a byte-pair tokenizer makes 18 or so of it
    assert tokenizer.encode(text) == pieces
