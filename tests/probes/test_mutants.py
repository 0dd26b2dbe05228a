"""The suite can fail: a backend that breaks one promise is caught by the probe of that promise, and by no other."""

from __future__ import annotations

import asyncio

import mutants_of_answers as answers
import mutants_of_engines as engines
import pytest
from faultless_backend import FaultlessBackend

from enginebay.errors import UnsupportedFeature
from enginebay.probes import LIFE_CYCLE_PROBES, PROBES, Outcome, ProbeResult, Subject, run_life_cycle_probe, run_probes
from enginebay.probes.cancelling import CANCEL_PROBES
from enginebay.types import Feature

QUICK = tuple(probe for probe in PROBES if probe not in CANCEL_PROBES)
FREQUENT = "draws follow the logprobs"
BATCH = "thirty-two requests at once each get their own answer"

CAUGHT = {
    answers.SendsTwoLastChunks: {"a stream ends with exactly one last chunk"},
    answers.TalksAfterItsEnd: {"a stream ends with exactly one last chunk"},
    answers.MiscountsUsage: {"usage equals the tokens that arrived"},
    answers.StampsBackwards: {"chunks tell when they arrived"},
    answers.SaysOtherInFinal: {"one final chunk says what the stream says"},
    answers.SendsHalfCharacters: {"characters of several bytes arrive whole"},
    answers.GivesOneTokenTooMany: {"max_tokens is exact"},
    answers.CallsTheLimitAStop: {"max_tokens is exact"},
    answers.dropping(stop=()): {
        "a stop string ends the text before it",
        "a stop string is kept when asked for",
    },
    answers.KeepsTheStop: {"a stop string ends the text before it"},
    answers.NamesAnotherStop: {"stop_reason names the stop string"},
    answers.dropping(include_stop_str_in_output=False): {"a stop string is kept when asked for"},
    answers.dropping(stop_token_ids=()): {"a stop token ends the answer"},
    answers.NamesAnotherStopToken: {"a stop token ends the answer"},
    answers.dropping(min_tokens=0): {"min_tokens delays the end"},
    answers.dropping(ignore_eos=False): {"ignore_eos reaches max_tokens"},
    answers.IsNeverTwiceTheSame: {"greedy repeats itself"},
    answers.SpeaksAnotherTokenInTheSameWords: {"greedy repeats itself"},
    answers.DrawsFromItsOwnNoise: {"a seed repeats itself"},
    answers.HasOneSeed: {"other seeds give other texts", FREQUENT},
    answers.dropping(top_p=1.0): {"top_p near 0 is greedy"},
    answers.dropping(top_k=0): {"top_k 1 is greedy"},
    answers.dropping(min_p=0.0): {"min_p 1 is greedy"},
    answers.dropping(logit_bias={}): {"logit_bias forbids a token"},
    answers.dropping(repetition_penalty=1.0): {"repetition_penalty changes what is drawn"},
    answers.dropping(presence_penalty=0.0): {"presence_penalty changes what is drawn"},
    answers.dropping(frequency_penalty=0.0): {"frequency_penalty changes what is drawn"},
    answers.rewarding("repetition_penalty"): {"repetition_penalty is against what was said, not for it"},
    answers.rewarding("presence_penalty"): {"presence_penalty is against what was said, not for it"},
    answers.rewarding("frequency_penalty"): {"frequency_penalty is against what was said, not for it"},
    answers.dropping(skip_special_tokens=True): {"special tokens are shown when asked for"},
    answers.TellsNeighbouringIds: {"token ids are those of the text"},
    answers.SquaresLogprobs: {FREQUENT},
    answers.TellsOneLogprob: {"logprobs differ from token to token and repeat themselves"},
    answers.TellsAnotherLogprobEachTime: {"logprobs differ from token to token and repeat themselves"},
    answers.NamesNoStopToken: {"a stop token ends the answer"},
    answers.DropsTheTemplate: {"a template of the request's own is rendered", "template arguments are used"},
    answers.DropsTemplateArguments: {"template arguments are used"},
    answers.CountsOneTokenTooMany: {"count_tokens tells what the engine sees", "token ids give what their text gives"},
    answers.AddsATokenToIds: {"token ids give what their text gives"},
    answers.IsSilentInConversations: {"a conversation is answered"},
    answers.SeesPartsDifferently: {"a text part gives what plain content gives"},
    answers.CutsLongPrompts: {"a prompt that is too long is the request's fault"},
    answers.ForgetsToTruncate: {"a truncated prompt has as many tokens as asked for"},
    answers.SpeaksThoughToldNothing: {"max_tokens 0 computes the prompt alone"},
    answers.BeginsAgain: {"a resumed answer goes on where it ended"},
    engines.ForgetsALogprob: {"every token has a logprob"},
    engines.IsMoreThanSure: {
        "every token has a logprob",
        "logprobs differ from token to token and repeat themselves",
    },
    engines.ListsTheWorstFirst: {"every token has a logprob"},
    engines.ForgetsThePromptLogprobs: {"every prompt token but the first has a logprob"},
    engines.HidesTokenIds: {"every chunk tells its token ids", "a resumed answer goes on where it ended"},
    engines.BreaksTheSchema: {"a JSON schema is kept"},
    engines.SaysItIsDegraded: {"health says ready"},
    engines.IsUnwellWhenBusy: {"health answers while the engine is busy"},
    engines.HasNoTimeForHealth: {"health answers while the engine is busy"},
    engines.CountsTokensTwice: {"statistics count the tokens that were generated"},
    engines.CountsNoTokens: {"statistics count the tokens that were generated"},
    engines.CountsNoRequests: {"statistics count the requests that ended"},
    engines.CountsUnderAnotherReason: {"statistics count the requests that ended"},
    engines.KeepsItsCache: {"the prefix cache is reset"},
    engines.MixesUpNeighbours: {BATCH},
    engines.FallsSilentInACrowd: {BATCH},
    engines.IgnoresDeadlines: {"a deadline that has passed is told"},
    engines.TakesAnyAdapter: {"adapter is accepted or refused by name"},
}

TOLD = "statistics tell a request while it runs"
LEFT_EARLY = {probe.name for probe in CANCEL_PROBES} - {"a stream that is never begun takes no slot", TOLD}
LEAKS = {
    engines.ForgetsTheSlot: LEFT_EARLY,
    engines.HoldsSlotsOfTheUnbegun: {"a stream that is never begun takes no slot"},
    engines.ForgetsTheSlotBeforeTheFirstChunk: {"cancelling before the first chunk frees the slot"},
    engines.ForgetsOneOfMany: {"cancelling sixteen at once frees all slots"},
    engines.ForgetsTheSlotOfAClosedStream: {"leaving the loop frees the slot"},
    engines.SaysNothingRuns: {TOLD},
    engines.WaitsInItsCleanUp: {"a cancelled anyio scope frees the slot"},
}

MAY_COME_TO_IT = {"cancelling before the first chunk frees the slot", TOLD}
"""Where a chunk comes before the cancellation does, that stream is left in another way; the stream that is to be seen
running is left, too, if it has not ended before."""

LIVES = {
    engines.AnswersUnstarted: {"before start it refuses with NotStarted"},
    engines.AnswersWhenClosed: {"after aclose it refuses with NotStarted"},
    engines.ClosesOnce: {"aclose twice is aclose once"},
    engines.HangsWhenClosed: {"aclose ends a running stream with a typed error"},
    engines.RefusesToBeCancelled: {"a start that is cancelled leaves nothing"},
    engines.LeavesItsPortTaken: {"a start that is cancelled leaves nothing"},
    engines.IsReadyTooEarly: {"health says loading while the engine loads"},
    engines.HangsWhenKilled: {"an engine that is killed gives a typed error"},
    engines.DiesUntyped: {"an engine that is killed gives a typed error"},
    engines.LooksWellWhenDead: {"an engine that is killed gives a typed error"},
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has not told it soon never will: the backends here are instant."""
    monkeypatch.setattr("enginebay.probes.telling.COUNTED_WITHIN_S", 0.0)
    monkeypatch.setattr("enginebay.probes.telling.HEALTHY_WITHIN_S", 0.2)
    monkeypatch.setattr("enginebay.probes.cancelling.FREE_WITHIN_S", 0.1)
    monkeypatch.setattr("enginebay.probes.cancelling.SEEN_WITHIN_S", 0.1)
    monkeypatch.setattr("enginebay.probes.life_cycle.DEAD_WITHIN_S", 0.2)


def results_of(backend: FaultlessBackend, probes=QUICK) -> list[ProbeResult]:
    async def main() -> list[ProbeResult]:
        await backend.start()
        return await run_probes(backend, probes=probes)

    return asyncio.run(main())


def failed(results: list[ProbeResult]) -> dict[str, str]:
    return {result.name: result.detail for result in results if result.is_failure}


def lived(kind: type[FaultlessBackend]) -> list[ProbeResult]:
    async def kill(backend) -> None:
        backend.kill()

    async def main() -> list[ProbeResult]:
        subject = Subject(make=kind, kill=kill, make_loading=lambda: kind(load_takes_s=60))
        return [await run_life_cycle_probe(probe, subject) for probe in LIFE_CYCLE_PROBES]

    return asyncio.run(main())


def test_a_faultless_backend_passes_every_probe():
    results = results_of(FaultlessBackend(pace_s=0.0005), PROBES) + lived(FaultlessBackend)
    assert [(result.name, result.detail) for result in results if result.outcome is not Outcome.PASSED] == []
    assert len(results) == len(PROBES) + len(LIFE_CYCLE_PROBES)


@pytest.mark.parametrize("kind", CAUGHT, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_caught_by_its_probe_alone(kind):
    assert set(failed(results_of(kind()))) == CAUGHT[kind]


@pytest.mark.parametrize("kind", LEAKS, ids=lambda kind: kind.__name__)
def test_a_leaked_slot_is_caught_by_its_probe_alone(kind):
    caught: set[str] = set()
    for probe in CANCEL_PROBES:  # a leak is for ever, so that each probe has a backend of its own
        caught |= set(failed(results_of(kind(), [probe])))
    assert LEAKS[kind] <= caught <= LEAKS[kind] | MAY_COME_TO_IT


@pytest.mark.parametrize("kind", LIVES, ids=lambda kind: kind.__name__)
def test_a_broken_life_is_caught_by_its_probe_alone(kind):
    assert set(failed(lived(kind))) == LIVES[kind]


def test_every_probe_has_a_mutant_that_it_catches():
    caught = set().union(*CAUGHT.values(), *LEAKS.values(), *LIVES.values())
    by_feature = {f"{feature.value} is accepted or refused by name" for feature in Feature}
    names = {probe.name for probe in (*PROBES, *LIFE_CYCLE_PROBES)}
    assert names - caught - by_feature == set()


# ---------------------------------------------------------------- declared and refused

ASKED = [
    feature for feature in Feature if f"{feature.value} is accepted or refused by name" in {p.name for p in PROBES}
]


@pytest.mark.parametrize("feature", Feature, ids=str)
def test_what_is_accepted_without_being_declared_is_caught_by_the_probes_of_that_feature(feature):
    backend = FaultlessBackend(features=frozenset(Feature) - {feature})
    probes = [probe for probe in QUICK if probe.feature is feature]
    assert {result.outcome for result in results_of(backend, probes)} == {Outcome.FAILED}


@pytest.mark.parametrize("feature", ASKED, ids=str)
def test_what_is_declared_but_refused_is_caught(feature):
    results = results_of(engines.Refuses(feature))
    problems = failed(results)
    assert f"{feature.value} is accepted or refused by name" in problems
    assert all("refuses it" in problem for problem in problems.values()), problems


@pytest.mark.parametrize("feature", ASKED, ids=str)
def test_what_is_refused_and_not_declared_is_unsupported_and_no_failure(feature):
    results = results_of(engines.Refuses(feature, features=frozenset(Feature) - {feature}))
    assert failed(results) == {}
    unsupported = {result.name for result in results if result.outcome is Outcome.UNSUPPORTED}
    assert unsupported == {probe.name for probe in QUICK if probe.feature is feature}


def test_a_refusal_under_another_name_is_caught():
    class Misnames(FaultlessBackend):
        def generate(self, request):
            if request.sampling.seed is not None:
                raise UnsupportedFeature(field="sead", backend="misnames")
            return super().generate(request)

    problems = failed(results_of(Misnames(features=frozenset(Feature) - {Feature.SEED})))
    assert set(problems) == {probe.name for probe in QUICK if probe.feature is Feature.SEED}
    assert set(problems.values()) == {"refuses 'seed' under another name, 'sead'"}


# ---------------------------------------------------------------- what cannot be told, and time


def test_an_engine_that_does_not_tell_what_runs_is_skipped_when_it_still_answers():
    results = results_of(engines.TellsNothing(), CANCEL_PROBES[2:4])
    assert {result.outcome for result in results} == {Outcome.SKIPPED}
    assert all("still answers" in result.detail for result in results)


def test_an_engine_that_does_not_tell_what_runs_and_runs_out_of_slots_has_failed():
    async def main() -> ProbeResult:
        backend = engines.RunsOutOfSlots()
        await backend.start()
        [probe] = [probe for probe in CANCEL_PROBES if probe.name == "cancelling in the middle frees the slot"]
        [result] = await run_probes(backend, probes=[probe], time_limit_factor=0.005)
        return result

    result = asyncio.run(main())
    assert (result.outcome, result.detail) == (Outcome.FAILED, "did not end within 0.6 s")


def test_a_foreign_error_is_a_failure_and_the_next_probe_runs():
    class Breaks(FaultlessBackend):
        async def health(self):
            raise ZeroDivisionError("no health")

    results = {result.name: result for result in results_of(Breaks())}
    assert results["health says ready"].detail == "ZeroDivisionError: no health"
    assert results[BATCH].outcome is Outcome.PASSED


def test_a_cancellation_from_outside_is_no_result():
    async def main() -> None:
        backend = engines.RunsOutOfSlots(num_slots=0)
        await backend.start()
        running = asyncio.ensure_future(run_probes(backend))
        await asyncio.wait({running}, timeout=0.05)
        running.cancel()
        await running

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
