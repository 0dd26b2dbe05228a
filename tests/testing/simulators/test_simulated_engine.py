from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginebay.errors import ConfigError
from enginebay.testing import FakeClock
from enginebay.testing.simulators import SimulatorProfile, tokens
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling, StepToken

PROMPT = tuple(range(300, 320))
PROFILE = SimulatorProfile(
    prefill_tokens_per_s=1000.0, decode_step_s=0.1, decode_step_per_sequence_s=0.01, prefix_caching=False
)


@dataclass(eq=False)
class Client:
    """Keeps what it is told, and when."""

    clock: FakeClock
    tokens: list[StepToken] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    failure: str | None = None
    cancels_after: int | None = None
    engine: SimulatedEngine | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        self.tokens.append(token)
        self.times.append(self.clock.now())
        if self.engine is not None and len(self.tokens) == self.cancels_after:
            self.engine.cancel(request)

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        self.failure = reason


def request_for(client: Client, prompt: tuple[int, ...] = PROMPT, **sampling: object) -> SimulatedRequest:
    fields = {"max_tokens": 4, "temperature": 0.0, **sampling}
    return SimulatedRequest(prompt, SimulatedSampling(**fields), listener=client)  # type: ignore[arg-type]


def simulate(
    *many: dict[str, object], profile: SimulatorProfile = PROFILE, duration_s: float = 1e4
) -> tuple[SimulatedEngine, list[Client]]:
    """Run these requests, submitted together, on a fake clock to their ends."""
    clock = FakeClock()

    async def main() -> tuple[SimulatedEngine, list[Client]]:
        engine = SimulatedEngine(profile, clock)
        clients = [Client(clock) for _ in many]
        for client, one in zip(clients, many, strict=True):
            engine.submit(request_for(client, **one))  # type: ignore[arg-type]
        running = asyncio.create_task(engine.run())
        while engine.num_unfinished:
            await clock.run_for(0.5)
            assert clock.now() < duration_s
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return engine, clients

    return asyncio.run(main())


# ---------------------------------------------------------------- time


def test_a_request_alone_takes_the_time_of_the_formula():
    _, [client] = simulate({})
    # the first step computes 20 prompt tokens and one token; each later one a token
    assert client.times == pytest.approx([0.13, 0.24, 0.35, 0.46])


def test_a_step_of_two_takes_longer_and_gives_both_a_token():
    _, [first, second] = simulate({}, {})
    assert first.times == second.times == pytest.approx([0.16, 0.28, 0.40, 0.52])


def test_a_long_prompt_is_computed_in_several_steps():
    profile = replace(PROFILE, max_num_batched_tokens=8)
    _, [client] = simulate({"max_tokens": 1}, profile=profile)
    # 8 + 8 prompt tokens with nothing to decode, then 4 and the first token
    assert client.times == pytest.approx([0.108 + 0.108 + 0.114])


def test_more_requests_than_places_wait_for_their_turn():
    engine, clients = simulate({}, {}, {}, profile=replace(PROFILE, max_num_seqs=2))
    assert clients[2].times[0] > clients[0].times[-1]
    assert engine.num_waiting == 0


def test_all_streams_of_a_paced_engine_tick_together():
    profile = replace(PROFILE, pace="paced", tick_s=0.02)
    _, [first, second] = simulate({}, {"prompt": PROMPT * 3}, profile=profile)
    assert first.times == second.times == pytest.approx([0.02, 0.04, 0.06, 0.08])


def test_an_instant_engine_needs_no_time():
    _, [client] = simulate({"max_tokens": 300, "ignore_eos": True}, profile=replace(PROFILE, pace="instant"))
    assert client.times == [0.0] * 300


def test_loading_takes_its_time_before_the_first_step():
    _, [client] = simulate({"max_tokens": 1}, profile=replace(PROFILE, load_time_s=5.0))
    assert client.times == pytest.approx([5.13])


# ---------------------------------------------------------------- text


def test_greedy_answers_repeat_and_seeds_decide_the_others():
    _, clients = simulate(
        {"max_tokens": 30}, {"max_tokens": 30, "seed": 5},
        {"max_tokens": 30, "temperature": 1.0, "seed": 5}, {"max_tokens": 30, "temperature": 1.0, "seed": 5},
        {"max_tokens": 30, "temperature": 1.0, "seed": 6}, {"max_tokens": 30, "temperature": 1.0},
    )  # fmt: skip
    greedy, also_greedy, seeded, same_seed, other_seed, unseeded = [client.ids for client in clients]
    assert greedy == also_greedy
    assert seeded == same_seed
    assert len({tuple(ids) for ids in (greedy, seeded, other_seed, unseeded)}) == 4


def test_an_answer_continues_from_its_own_first_half():
    _, [whole] = simulate({"max_tokens": 40})
    _, [rest] = simulate({"prompt": (*PROMPT, *whole.ids[:17]), "max_tokens": 23})
    assert rest.ids == whole.ids[17:]


def test_some_characters_are_split_between_tokens_and_none_is_shown_broken():
    _, [client] = simulate({"max_tokens": 600, "ignore_eos": True})
    inside = [token for token in client.tokens if not token.text]
    assert inside
    assert "�" not in client.text
    assert any(ord(character) > 0xFFFF for character in client.text)
    assert client.text == tokens.decode(client.ids).rstrip("�")


def test_an_answer_ends_by_itself_and_only_after_the_shortest_length():
    _, [client] = simulate({"max_tokens": 2000})
    assert client.tokens[-1].finish_reason == "stop"
    assert client.tokens[-1].stop_reason is None
    assert client.ids[-1] == tokens.END_ID
    assert len(client.ids) > PROFILE.min_answer_tokens


def test_ignore_eos_goes_on_to_max_tokens_and_min_tokens_delays_the_end():
    _, [ignoring, waiting] = simulate({"max_tokens": 900, "ignore_eos": True}, {"max_tokens": 900, "min_tokens": 400})
    assert len(ignoring.ids) == 900
    assert ignoring.tokens[-1].finish_reason == "length"
    assert len(waiting.ids) >= 400


def test_a_stop_string_over_two_tokens_is_cut_or_kept():
    _, [whole] = simulate({"max_tokens": 12})
    third, fourth = whole.tokens[2].text, whole.tokens[3].text
    stop = third[-2:] + fourth[:3]
    _, [cut, kept] = simulate(
        {"max_tokens": 12, "stop": (stop,)}, {"max_tokens": 12, "stop": (stop,), "include_stop": True}
    )
    assert cut.text == whole.text.partition(stop)[0]
    assert kept.text == cut.text + stop
    assert cut.tokens[-1].stop_reason == stop
    assert len(cut.ids) == 4


def test_a_stop_token_ends_the_answer_and_is_named():
    _, [whole] = simulate({"max_tokens": 12})
    stop_id = whole.ids[5]
    _, [stopped] = simulate({"max_tokens": 12, "stop_token_ids": (stop_id,)})
    assert stopped.ids == whole.ids[: whole.ids.index(stop_id) + 1]
    assert stopped.tokens[-1].stop_reason == stop_id


def test_the_chosen_token_is_the_likeliest_and_alternatives_are_distinct():
    _, [client] = simulate({"max_tokens": 20})
    for token in client.tokens:
        likeliest = token.alternatives(5)
        assert likeliest[0] == (token.token_id, token.logprob)
        assert len({token_id for token_id, _ in likeliest}) == 5
        assert [value for _, value in likeliest] == sorted((value for _, value in likeliest), reverse=True)


# ---------------------------------------------------------------- memory


def test_a_request_that_outgrows_the_cache_preempts_the_youngest_and_loses_nothing():
    profile = replace(PROFILE, num_blocks=8, block_size=8, max_model_len=64)
    alone = [simulate({"max_tokens": 40, "seed": seed}, profile=profile)[1][0].ids for seed in (1, 2)]
    engine, clients = simulate({"max_tokens": 40, "seed": 1}, {"max_tokens": 40, "seed": 2}, profile=profile)
    assert engine.metrics.num_preemptions > 0
    assert [client.ids for client in clients] == alone
    assert engine.num_used_blocks == 0


def test_a_prompt_that_does_not_fit_waits_for_blocks():
    profile = replace(PROFILE, num_blocks=4, block_size=8, max_model_len=32)
    engine, [first, second] = simulate({"max_tokens": 4}, {"max_tokens": 4}, profile=profile)
    assert second.times[0] > first.times[-1]
    assert engine.metrics.num_preemptions == 0


def test_a_repeated_prompt_is_found_in_the_cache_in_whole_blocks():
    profile = replace(PROFILE, prefix_caching=True, block_size=8, max_num_seqs=1)
    engine, [first, second] = simulate({"max_tokens": 1}, {"max_tokens": 1}, profile=profile)
    assert engine.metrics.num_prefix_queries == 40
    assert engine.metrics.num_prefix_hits == 16
    assert first.times == pytest.approx([0.13])
    assert second.times == pytest.approx([0.13 + 0.114])


def test_a_sequence_that_could_never_fit_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="holds 64 tokens, one sequence may have 65"):
        SimulatedEngine(replace(PROFILE, num_blocks=8, block_size=8, max_model_len=65), FakeClock())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tick_s", 0.0), ("tick_s", -1.0), ("tick_s", math.nan), ("tick_s", math.inf), ("load_time_s", -1.0),
        ("load_time_s", math.inf), ("prefill_tokens_per_s", 0.0), ("decode_step_s", -0.1),
        ("decode_step_per_sequence_s", math.nan), ("end_every_tokens", 0), ("max_num_queued", -1),
    ],
)  # fmt: skip
def test_a_speed_that_no_engine_has_is_refused_at_the_start(name: str, value: float):
    with pytest.raises(ConfigError, match=f"{name} is "):
        SimulatedEngine(replace(PROFILE, **{name: value}), FakeClock())  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 24)), min_size=1, max_size=8),
    num_blocks=st.integers(8, 20),
    max_num_seqs=st.integers(1, 4),
)
def test_whatever_comes_every_answer_is_whole_and_every_block_is_free_again(sizes, num_blocks, max_num_seqs):
    profile = replace(PROFILE, num_blocks=num_blocks, block_size=8, max_model_len=64, max_num_seqs=max_num_seqs)
    many = [{"prompt": tuple(range(300, 300 + length)), "max_tokens": num} for length, num in sizes]
    engine, clients = simulate(*many, profile=profile)
    assert [len(client.ids) for client in clients] == [num for _, num in sizes]
    assert engine.num_used_blocks == 0
    assert engine.metrics.num_output_tokens == sum(num for _, num in sizes)
    assert engine.metrics.num_prompt_tokens == sum(length for length, _ in sizes)


# ---------------------------------------------------------------- ends


def test_cancelling_frees_the_blocks_at_once_and_nothing_is_told_any_more():
    clock = FakeClock()

    async def main() -> None:
        engine = SimulatedEngine(PROFILE, clock)
        running, waiting = Client(clock), Client(clock)
        requests = [request_for(running, max_tokens=100), request_for(waiting, max_tokens=100)]
        stepping = asyncio.create_task(engine.run())
        engine.submit(requests[0])
        await clock.run_for(0.3)
        engine.submit(requests[1])
        assert (engine.num_running, engine.num_waiting) == (1, 1)
        for request in requests:
            engine.cancel(request)
            engine.cancel(request)
        assert (engine.num_running, engine.num_waiting, engine.num_used_blocks) == (0, 0, 0)
        told = len(running.tokens)
        await clock.run_for(5.0)
        assert len(running.tokens) == told
        assert engine.metrics.num_finished["abort"] == 2
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("pace", ["modelled", "paced", "instant"])
def test_a_listener_may_cancel_from_inside_its_token(pace):
    clock = FakeClock()

    async def main() -> None:
        engine = SimulatedEngine(replace(PROFILE, pace=pace), clock)
        client = Client(clock, cancels_after=3, engine=engine)
        engine.submit(request_for(client, max_tokens=50))
        stepping = asyncio.create_task(engine.run())
        await clock.run_for(10.0)
        assert len(client.tokens) == 3
        assert engine.num_used_blocks == 0
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)

    asyncio.run(main())


def test_a_dying_engine_fails_all_its_requests_and_frees_everything():
    clock = FakeClock()

    async def main() -> None:
        engine = SimulatedEngine(replace(PROFILE, max_num_seqs=1), clock)
        clients = [Client(clock), Client(clock)]
        stepping = asyncio.create_task(engine.run())
        for client in clients:
            engine.submit(request_for(client, max_tokens=50))
        await clock.run_for(0.3)
        engine.die("out of memory")
        assert [client.failure for client in clients] == ["out of memory"] * 2
        assert (engine.num_unfinished, engine.num_used_blocks) == (0, 0)
        assert engine.metrics.num_finished["error"] == 2
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)

    asyncio.run(main())


# ---------------------------------------------------------------- counts


def test_histograms_hold_what_the_requests_took():
    clock = FakeClock()

    async def main() -> None:
        engine = SimulatedEngine(PROFILE, clock)
        bounds = (0.12, 0.2, 0.47)
        ttft, e2e, gaps = (engine.metrics.track(name, bounds) for name in ("ttft_s", "e2e_s", "itl_s"))
        engine.submit(request_for(Client(clock)))
        stepping = asyncio.create_task(engine.run())
        await clock.run_for(2.0)
        assert ttft.counts == [0, 1, 0, 0]
        assert e2e.counts == [0, 0, 1, 0]
        assert gaps.counts == [3, 0, 0, 0]
        assert e2e.sum == pytest.approx(0.46)
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)

    asyncio.run(main())


# ---------------------------------------------------------------- the tokenizer


@given(st.text(max_size=60))
def test_every_text_comes_back_from_its_tokens(text):
    assert tokens.decode(tokens.encode(text)) == text


def test_common_words_are_one_token_and_ids_are_stable():
    assert tokens.encode("the quick brown fox") == tokens.encode("the quick brown fox")
    assert len(tokens.encode("the quick brown fox.")) == 5
    assert tokens.encode("é") == (3 + 0xC3, 3 + 0xA9)
    assert tokens.token_text(tokens.END_ID) == "</s>"
    assert tokens.encode(" the") == (259,)
