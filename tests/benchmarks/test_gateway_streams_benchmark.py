"""The benchmark of the gateway's streams: the ticking server, its stamps, and the figures out of them."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bars import exit_code
from gateway_stage import Target
from gateway_streams import Run, held_bars, replayed, steady_bars
from instant_server import WHOLE
from stream_cases import Case, held, steady
from stream_figures import StreamFigures, added, has_own_step, min_open, stamps_of, stream_figures
from ticking_server import END, HEAD, OWN_STEP, Ticker, TickingConnection

from enginebay.loadtest.records import Arrival, Record

TICK_S = 0.05
ZERO = 100.0
"""Of the records, on the clock of the stamps."""


class Written:
    def __init__(self) -> None:
        self.data = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.data += data

    def is_closing(self) -> bool:
        return self.is_closed


def asked(ticker: Ticker, *, max_tokens: int, prompt: str = "a prompt", stream: bool = True) -> Written:
    connection, written = TickingConnection(ticker), Written()
    connection.connection_made(written)  # pyright: ignore[reportArgumentType]
    body = json.dumps({"prompt": prompt, "max_tokens": max_tokens, "stream": stream}).encode()
    connection.data_received(
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )  # fmt: skip
    return written


def events(written: Written) -> list[dict[str, object]]:
    """Out of chunks whose lengths must be right."""
    assert written.data.startswith(HEAD)
    rest, found = written.data[len(HEAD) :], b""
    while rest and rest != END:
        size, _, rest = rest.partition(b"\r\n")
        found += rest[: int(size, 16)]
        assert rest[int(size, 16) :].startswith(b"\r\n")
        rest = rest[int(size, 16) + 2 :]
    lines = [event.removeprefix(b"data: ") for event in found.split(b"\n\n") if event]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def texts(written: Written) -> list[str]:
    return [event["choices"][0]["text"] for event in events(written) if event["choices"]]  # pyright: ignore


def test_every_open_stream_gets_one_token_in_each_tick() -> None:
    ticker = Ticker(TICK_S)
    first = asked(ticker, max_tokens=3)
    assert texts(first) == []
    ticker.tick(1)
    second = asked(ticker, max_tokens=3)
    ticker.tick(2)
    assert [text.split(":")[:2] for text in texts(first)] == [[" 0", "1"], [" 1", "2"]]
    assert [text.split(":")[:2] for text in texts(second)] == [[" 0", "2"]]


def test_a_prompt_with_a_step_of_its_own_has_its_first_token_at_once() -> None:
    ticker = Ticker(TICK_S)
    stream = asked(ticker, max_tokens=2, prompt=f"{OWN_STEP}: a prompt")
    [(_, stepped, received)] = [text.split(":") for text in texts(stream)]
    assert 0 <= int(stepped) - int(received) < 1e9
    ticker.tick(5)
    assert texts(stream)[1] == " 1:5"


def test_the_last_token_ends_the_answer_with_its_usage() -> None:
    ticker = Ticker(TICK_S)
    stream = asked(ticker, max_tokens=2)
    ticker.tick(1)
    assert not stream.data.endswith(END)
    ticker.tick(2)
    assert stream.data.endswith(END)
    assert b"[DONE]" in stream.data
    last, usage = events(stream)[-2:]
    assert last["choices"][0]["finish_reason"] == "length"  # pyright: ignore
    assert usage["usage"]["completion_tokens"] == 2  # pyright: ignore
    ticker.tick(3)
    assert len(texts(stream)) == 2


def test_nothing_is_sent_to_who_has_left_and_what_is_not_streamed_is_answered_at_once() -> None:
    ticker = Ticker(TICK_S)
    stream = asked(ticker, max_tokens=9)
    stream.is_closed = True
    ticker.tick(1)
    stream.is_closed = False
    ticker.tick(2)
    assert texts(stream) == []
    assert asked(ticker, max_tokens=9, stream=False).data == WHOLE


def record(index: int, *, sent_at: float, num_tokens: int = 4, late_s: float = 0.002) -> Record:
    """Received 1 ms after its sending; its steps 50 ms apart from 10 ms after that on."""
    received_at = ZERO + sent_at + 0.001
    steps = [received_at + 0.010 + TICK_S * number for number in range(num_tokens)]
    words = [f" {number}:{round(step * 1e9)}" for number, step in enumerate(steps)]
    words[0] += f":{round(received_at * 1e9)}"
    return Record(
        index=index,
        scheduled_at=sent_at,
        sent_at=sent_at,
        ended_at=steps[-1] + late_s - ZERO,
        arrivals=[Arrival(step + late_s - ZERO, 1) for step in steps],
        num_planned_prompt_tokens=8,
        max_tokens=num_tokens,
        num_output_tokens=num_tokens,
        text="".join(words),
        finish_reason="length",
    )


def figures_of(*records: Record, window: tuple[float, float] = (0.0, 1.0)) -> StreamFigures:
    return stream_figures(records, started_at=ZERO, window=window)


def test_figures_of_streams_are_what_the_stamps_say() -> None:
    figures = figures_of(record(0, sent_at=0.1), record(1, sent_at=0.1))
    assert figures.num_failed == figures.num_wrong == 0
    assert figures.num_chunks_in_window == 8
    assert figures.ttft_s["p50"] == pytest.approx(0.013)
    assert figures.ttft_in_tick_s["p50"] == pytest.approx(0.013)
    assert figures.ttft_in_tick_beyond_engine_s["p50"] == pytest.approx(0.003)
    assert figures.chunk_gap_s["p99"] == pytest.approx(TICK_S)
    assert figures.lateness_s["p99"] == pytest.approx(0.002)


def test_only_what_falls_into_the_window_counts() -> None:
    early, late = record(0, sent_at=0.0, late_s=0.040), record(1, sent_at=0.0)
    inside = [record(2, sent_at=0.5), record(3, sent_at=0.5)]
    figures = figures_of(early, late, *inside, window=(0.4, 1.0))
    assert figures.num_streams == 4
    assert figures.num_chunks_in_window == 8
    assert figures.lateness_s["p99"] == pytest.approx(0.002)


def broken(index: int, change: str) -> Record:
    good = record(index, sent_at=0.1)
    words = good.text.split(" ")[1:]
    if change == "a token is missing":
        good.text = "".join(f" {word}" for word in words[:2] + words[3:])
    elif change == "two are exchanged":
        good.text = "".join(f" {word}" for word in [words[0], words[2], words[1], words[3]])
    elif change == "two came as one":
        good.arrivals = good.arrivals[1:]
    elif change == "usage tells less":
        good.num_output_tokens = 3
    return good


@pytest.mark.parametrize("change", ["a token is missing", "two are exchanged", "two came as one", "usage tells less"])
def test_a_stream_without_its_exact_tokens_is_wrong(change: str) -> None:
    assert stamps_of(broken(2, "")) is not None
    assert stamps_of(broken(2, change)) is None
    figures = figures_of(record(0, sent_at=0.1), record(1, sent_at=0.1), broken(2, change))
    assert (figures.num_failed, figures.num_wrong) == (0, 1)


def test_a_stream_that_broke_off_has_failed() -> None:
    failed = record(2, sent_at=0.1)
    failed.error_class = "BackendUnavailable"
    figures = figures_of(record(0, sent_at=0.1), record(1, sent_at=0.1), failed)
    assert (figures.num_failed, figures.num_wrong) == (1, 0)


def test_the_fewest_open_streams_are_counted_at_every_instant_of_the_window() -> None:
    records = [record(index, sent_at=at) for index, at in enumerate((0.0, 0.05, 0.3))]  # each lasts 0.163 s
    assert min_open(records, (0.06, 0.15)) == 2
    assert min_open(records, (0.06, 0.20)) == 1
    assert min_open(records, (0.06, 0.40)) == 0


def test_what_is_added_is_the_difference_of_the_runs_means() -> None:
    bare = figures_of(record(0, sent_at=0.1), record(1, sent_at=0.1))
    slower = [replace(bare, lateness_s={"p50": 0.003, "p99": late_s}) for late_s in (0.004, 0.008)]
    assert added([bare, bare], slower)["lateness_s"] == pytest.approx({"p50": 0.001, "p99": 0.004})
    assert added([bare], [bare])["ttft_s"] == {"p50": 0.0, "p99": 0.0}


def test_where_no_stream_begins_in_the_window_there_is_no_ttft_and_its_bars_are_missed() -> None:
    figures = figures_of(record(0, sent_at=0.0), record(1, sent_at=0.0), window=(0.01, 1.0))
    assert figures.ttft_s == {"p50": None, "p99": None}
    assert added([figures], [figures])["ttft_s"] == {"p50": None, "p99": None}
    ttft = steady_bars(1, runs_of(figures, figures), is_stretch=False)[0]
    assert not ttft.is_met
    assert "nothing" in str(ttft)


def test_the_load_test_gets_every_token_of_the_ticking_server() -> None:
    case = Case(
        name="ten streams", tokens_per_s=50, num_tokens=5, rate=100, num_requests=10, window=(0.9, 1.9), order=()
    )  # fmt: skip

    async def main() -> Run:
        ticker = Ticker(1 / case.tokens_per_s)
        ticker.begin()
        server = await asyncio.get_running_loop().create_server(lambda: TickingConnection(ticker), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server:
            run = await replayed(case, "direct", Target(f"http://{host}:{port}"))
        ticker.end()
        return run

    run = asyncio.run(main())
    assert (run.figures.num_streams, run.figures.num_failed, run.figures.num_wrong) == (10, 0, 0)
    assert run.figures.num_chunks_in_window == 50
    for percentiles in (run.figures.ttft_s, run.figures.lateness_s):
        assert percentiles["p50"] is not None
        assert percentiles["p50"] > 0


def runs_of(direct: StreamFigures, through: StreamFigures, *, cpu_s: float = 0.0) -> list[Run]:
    return [
        Run(target="direct", figures=direct, gateway_cpu_s=0.0, gateway_waited_ratio=0.0, client={}),
        Run(target="gateway", figures=through, gateway_cpu_s=cpu_s, gateway_waited_ratio=0.0, client={}),
    ]


def test_each_bar_of_the_streams_can_fail() -> None:
    good = figures_of(record(0, sent_at=0.1), record(1, sent_at=0.1))
    good = replace(good, min_open_streams=300)
    assert exit_code(steady_bars(300, runs_of(good, good), is_stretch=False)) == 0
    worse = {
        "ttft": replace(good, ttft_s={"p50": 0.0161, "p99": 0.02}),
        "gap": replace(good, chunk_gap_s={"p50": 0.05, "p99": 0.0581}),
        "failed": replace(good, num_failed=1),
        "wrong": replace(good, num_wrong=1),
        "open": replace(good, min_open_streams=299),
    }
    codes = {name: exit_code(steady_bars(300, runs_of(good, one), is_stretch=False)) for name, one in worse.items()}
    assert codes == dict.fromkeys(worse, 1)
    too_dear = 71e-6 * good.num_chunks_in_window
    assert exit_code(steady_bars(300, runs_of(good, good, cpu_s=too_dear), is_stretch=False)) == 1
    assert exit_code(steady_bars(600, runs_of(good, worse["wrong"]), is_stretch=True)) == 0
    assert exit_code(held_bars(1000, runs_of(good, good))) == 1


@pytest.mark.parametrize("case", [steady(300, 10.0), steady(600, 4.0), held()])
def test_as_many_streams_as_are_told_are_open_in_the_whole_window(case: Case) -> None:
    wanted = int(case.name.split()[0])
    tick_s = 1 / case.tokens_per_s
    requests = case.requests()
    begins = [request.offset_s or 0.0 for request in requests]
    records = [
        Record(
            index=request.index,
            scheduled_at=at,
            sent_at=at,
            # The shortest that it can last: the first token comes at once, or with a tick that is due at once.
            ended_at=at + (case.num_tokens - 2 if has_own_step(request.index) else case.num_tokens - 1) * tick_s,
            num_planned_prompt_tokens=8,
            max_tokens=case.num_tokens,
        )
        for request, at in zip(requests, begins, strict=True)
    ]
    assert min_open(records, case.window) >= wanted
