"""Probes of the direction of penalties: they are told apart from their opposite, not only from none."""

from __future__ import annotations

from functools import partial

from enginebay.backend import Backend
from enginebay.probes.asking import Answer, again, ask_all, sampled
from enginebay.probes.probe import Probe, ProbeSkipped, expect
from enginebay.types import Feature

_NUM_ANSWERS = 2


async def _discourages(backend: Backend, *, field: str, most: float, least: float) -> str:
    if backend.info.simulated:
        raise ProbeSkipped("a simulator has no probabilities that a penalty could shift")
    penalised = await _num_repeats(backend, field, most)
    rewarded = await _num_repeats(backend, field, least)
    expect(
        penalised <= rewarded,
        f"{penalised} tokens were said again with {field}={most:g}, {rewarded} with {least:g}",
    )
    return f"{penalised} repeats, {rewarded} with {least:g}"


async def _num_repeats(backend: Backend, field: str, value: float) -> int:
    seeds = range(_NUM_ANSWERS) if Feature.SEED in backend.info.capabilities else [None] * _NUM_ANSWERS
    requests = [again(sampled(backend, max_tokens=24, temperature=1.0, seed=seed), **{field: value}) for seed in seeds]
    return sum(_repeats(answer) for answer in await ask_all(backend, requests))


def _repeats(answer: Answer) -> int:
    said = answer.whole.token_ids or answer.text.split()
    return len(said) - len(set(said))


def _direction_probe(feature: Feature, *, most: float, least: float) -> Probe:
    return Probe(
        name=f"{feature.value} is against what was said, not for it",
        description=f"Two answers say no more again with {most:g} than with {least:g}.",
        run=partial(_discourages, field=feature.value, most=most, least=least),
        feature=feature,
        time_limit_s=120.0,
    )


PENALTY_PROBES = (
    _direction_probe(Feature.REPETITION_PENALTY, most=1.8, least=0.6),
    _direction_probe(Feature.PRESENCE_PENALTY, most=2.0, least=-2.0),
    _direction_probe(Feature.FREQUENCY_PENALTY, most=2.0, least=-2.0),
)
