"""Probes of how tokens are chosen. A field that is accepted must also be obeyed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from enginebay.backend import Backend
from enginebay.probes.asking import LONG_TEXT, Answer, again, ask, greedy, plain_prompt, sampled
from enginebay.probes.probe import Probe, ProbeFailed, ProbeSkipped, expect
from enginebay.types import Feature


async def _greedy_repeats(backend: Backend) -> None:
    request = greedy(backend, max_tokens=24)
    first, second = await ask(backend, request), await ask(backend, again(request))
    expect(first.text == second.text, f"first {first.text!r}, then {second.text!r}")
    expect(
        None in (first.whole.token_ids, second.whole.token_ids) or first.whole.token_ids == second.whole.token_ids,
        f"the texts are equal, but first the token ids {first.whole.token_ids}, then {second.whole.token_ids}",
    )


async def _seed_repeats(backend: Backend) -> None:
    request = sampled(backend, max_tokens=16, temperature=1.0, seed=7)
    first, second = await ask(backend, request), await ask(backend, again(request))
    expect(first.text == second.text, f"seed 7 gave {first.text!r}, then {second.text!r}")


async def _seeds_differ(backend: Backend) -> str:
    texts = {
        (await ask(backend, sampled(backend, max_tokens=16, temperature=1.0, seed=seed))).text for seed in range(4)
    }
    expect(len(texts) > 1, f"the seeds 0 to 3 all gave {texts!r} at temperature 1")
    return f"{len(texts)} different answers to 4 seeds"


TEXTS = (
    LONG_TEXT,
    "Once upon a time there was a small boat that wanted to sail around the whole world, and so one morning",
    "To make bread you need flour, water, salt and yeast; first of all, you take a large bowl and then you",
    "The three largest cities of France are Paris, Marseille and Lyon, and the three largest of Italy are Rome,",
    "Dear Sir or Madam, I am writing to you because the washing machine that I bought from your shop last week",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen,",
)
_LEAST_EQUAL = 4
"""Of six short answers: in bfloat16 two best tokens of equal probability are no rarity, and either may be drawn."""


async def _small_top_p_is_greedy(backend: Backend) -> str:
    return await _draws_the_best(backend, top_p=0.0001)


async def _top_k_one_is_greedy(backend: Backend) -> str:
    return await _draws_the_best(backend, top_k=1)


async def _full_min_p_is_greedy(backend: Backend) -> str:
    return await _draws_the_best(backend, min_p=1.0)


async def _draws_the_best(backend: Backend, **sampling: float) -> str:
    """At temperature 1: the text says so where it is greedy's, and else the logprobs where they are told."""
    pairs = [await _greedy_and_drawn(backend, text, sampling) for text in TEXTS]
    num_equal = sum(drawn == best for best, drawn in pairs)
    if num_equal >= _LEAST_EQUAL:
        return f"{num_equal} of {len(pairs)} texts are greedy's"
    if Feature.LOGPROBS in backend.info.capabilities:
        return await _expect_a_tie(backend, sampling)
    best, drawn = next((best, drawn) for best, drawn in pairs if drawn != best)
    raise ProbeFailed(
        f"{num_equal} of {len(pairs)} texts are greedy's: {drawn!r} was drawn where the most probable is {best!r}"
    )


async def _greedy_and_drawn(backend: Backend, text: str, sampling: Mapping[str, float]) -> tuple[str, str]:
    request = greedy(backend, prompt=plain_prompt(backend, text), max_tokens=3)
    best = await ask(backend, request)
    return best.text, (await ask(backend, again(request, temperature=1.0, **sampling))).text


async def _expect_a_tie(backend: Backend, sampling: Mapping[str, float]) -> str:
    """Where the drawn answer leaves greedy's, the token drawn there must be as probable as greedy's."""
    most = backend.info.capabilities.max_logprobs
    request = again(greedy(backend), logprobs=3 if most is None else min(3, most))
    best = (await ask(backend, request)).whole.logprobs or ()
    drawn = (await ask(backend, again(request, temperature=1.0, **sampling))).whole.logprobs or ()
    fork = next(((one, other) for one, other in zip(best, drawn, strict=False) if one.token != other.token), None)
    if fork is None:
        return "some texts are not greedy's, the one that was looked at is"
    one, other = fork
    told = next((each.logprob for each in one.alternatives if each.token == other.token), None)
    shown = "less than its alternatives" if told is None else f"{told:g}"
    expect(
        told is not None and told >= one.logprob - _TOLERANCE,
        f"{other.token!r} was drawn with a logprob of {shown}, the most probable token {one.token!r} has "
        f"{one.logprob:g}",
    )
    return "where a text leaves greedy's, two tokens are equally probable"


_TOLERANCE = 1e-3


async def _bias_forbids(backend: Backend) -> None:
    request = greedy(backend, max_tokens=4)
    first_id = first_token_id(await ask(backend, request))
    biased = await ask(backend, again(request, logit_bias={first_id: -100.0}))
    expect(first_token_id(biased) != first_id, f"token {first_id} was chosen first, though a bias of -100 forbids it")


def _penalty_probe(feature: Feature, value: float) -> Probe:
    return Probe(
        name=f"{feature.value} changes what is drawn",
        description=f"One seed with {value:g} and without: not the same text for each of three seeds.",
        run=partial(_penalty_shows, field=feature.value, value=value),
        feature=feature,
        time_limit_s=120.0,
    )


async def _penalty_shows(backend: Backend, *, field: str, value: float) -> str:
    """The noise of a seed is the same with a penalty and without, so that only the penalty can make a difference."""
    if backend.info.simulated:
        raise ProbeSkipped("a simulator has no probabilities that a penalty could shift")
    if Feature.SEED not in backend.info.capabilities:
        raise ProbeSkipped("without seeds two draws differ anyway")
    text = ""
    for seed in (7, 8, 9):
        request = sampled(backend, max_tokens=40, temperature=1.0, seed=seed)
        text = (await ask(backend, request)).text
        if (await ask(backend, again(request, **{field: value}))).text != text:
            return f"seed {seed} gives another text"
    raise ProbeFailed(f"three seeds gave the same texts with {field}={value:g} as without, the last one {text!r}")


def first_token_id(answer: Answer) -> int:
    return token_ids(answer)[0]


def token_ids(answer: Answer) -> tuple[int, ...]:
    if answer.whole.token_ids:
        return answer.whole.token_ids
    raise ProbeSkipped("the engine does not tell token ids")


SAMPLING_PROBES = (
    Probe(
        name="greedy repeats itself",
        description="Temperature 0, one request at a time: twice the same text and the same token ids.",
        run=_greedy_repeats,
    ),
    Probe(
        name="a seed repeats itself",
        description="Temperature 1 and one seed, one request at a time: twice the same text.",
        run=_seed_repeats,
        feature=Feature.SEED,
    ),
    Probe(
        name="other seeds give other texts",
        description="Four seeds at temperature 1 give at least two texts.",
        run=_seeds_differ,
        feature=Feature.SEED,
    ),
    Probe(
        name="top_p near 0 is greedy",
        description="At temperature 1, a nucleus of the most probable token alone.",
        run=_small_top_p_is_greedy,
    ),
    Probe(
        name="top_k 1 is greedy",
        description="At temperature 1, from the most probable token alone.",
        run=_top_k_one_is_greedy,
        feature=Feature.TOP_K,
    ),
    Probe(
        name="min_p 1 is greedy",
        description="At temperature 1, from tokens as probable as the most probable one.",
        run=_full_min_p_is_greedy,
        feature=Feature.MIN_P,
    ),
    Probe(
        name="logit_bias forbids a token",
        description="With -100, the token that was chosen first is chosen no more.",
        run=_bias_forbids,
        feature=Feature.LOGIT_BIAS,
    ),
    _penalty_probe(Feature.REPETITION_PENALTY, 1.8),
    _penalty_probe(Feature.PRESENCE_PENALTY, 2.0),
    _penalty_probe(Feature.FREQUENCY_PENALTY, 2.0),
)
