from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from enginebay.clock import MonotonicClock
from enginebay.testing.simulators import INSTANT, tokens
from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling, StepToken

PROMPT = tokens.encode("the quick brown")


class Listener:
    def __init__(self) -> None:
        self.tokens: list[StepToken] = []

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        self.tokens.append(token)

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        raise AssertionError(reason)


def drawn(num_seeds: int, *, temperature: float = 1.0, **filters: object) -> list[StepToken]:
    """The first token of each seed."""

    async def main() -> list[StepToken]:
        engine = SimulatedEngine(INSTANT, MonotonicClock())
        listeners = [Listener() for _ in range(num_seeds)]
        for seed, listener in enumerate(listeners):
            sampling = SimulatedSampling(
                max_tokens=1,
                temperature=temperature,
                seed=seed,
                filters=Filters(**filters),  # type: ignore[arg-type]
            )
            engine.submit(SimulatedRequest(PROMPT, sampling, listener=listener))
        running = asyncio.create_task(engine.run())
        while engine.num_unfinished:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0)
        running.cancel()
        return [listener.tokens[0] for listener in listeners]

    return asyncio.run(main())


def test_tokens_are_drawn_as_often_as_their_log_probabilities_say() -> None:
    found = drawn(4000)
    counts = Counter(token.token_id for token in found)
    for token_id, logprob in found[0].alternatives(4):
        assert counts[token_id] / 4000 == pytest.approx(math.exp(logprob), abs=0.03)
    assert all(math.isclose(token.logprob, dict(token.alternatives(200))[token.token_id]) for token in found)


def test_all_tokens_together_have_a_probability_of_one() -> None:
    [token] = drawn(1)
    ids, logprobs = zip(*token.alternatives(1000), strict=True)
    assert len(set(ids)) == len(ids)
    assert sum(map(math.exp, logprobs)) == pytest.approx(1.0)
    assert list(logprobs) == sorted(logprobs, reverse=True)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.0}, {"temperature": 0.01}, {"top_k": 1}, {"top_p": 0.0001}, {"min_p": 1.0},
     {"top_k": 1, "logit_bias": {7: -1.0}}, {"top_p": 0.0001, "logit_bias": {7: -1.0}},
     {"min_p": 1.0, "logit_bias": {7: -1.0}}],
)  # fmt: skip
def test_what_leaves_one_token_leaves_the_likeliest(fields: dict[str, float]) -> None:
    found = drawn(60, **fields)  # type: ignore[arg-type]
    assert {token.token_id for token in found} == {found[0].alternatives(1)[0][0]}


@pytest.mark.parametrize("bias", [None, {7: -1.0}])
def test_top_k_leaves_that_many_and_top_p_the_fewest_that_reach_it(bias: dict[int, float] | None) -> None:
    [token] = drawn(1)
    [(first, first_logprob), (second, _), (third, _)] = token.alternatives(3)
    assert {token.token_id for token in drawn(300, top_k=3, logit_bias=bias)} == {first, second, third}
    just_more = math.exp(first_logprob) + 0.01
    assert {token.token_id for token in drawn(300, top_p=just_more, logit_bias=bias)} == {first, second}


def test_a_high_temperature_draws_more_different_tokens_than_a_low_one() -> None:
    low, high = (len({token.token_id for token in drawn(200, temperature=each)}) for each in (0.2, 2.0))
    assert low < high


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_forbids_a_token_or_brings_it_in(temperature: float) -> None:
    likeliest = drawn(1, temperature=0.0)[0].token_id
    assert likeliest not in {
        token.token_id for token in drawn(60, temperature=temperature, logit_bias={likeliest: -100})
    }
    assert {token.token_id for token in drawn(60, temperature=temperature, logit_bias={7: 100})} == {7}
