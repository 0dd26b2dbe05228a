"""A server's traffic, written down without a word of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from zlib import crc32

import pytest
from running_server import RunningServer, http_request
from scripted_backend import ALL_BUT_STRUCTURE, ScriptedBackend, prompt_words

from enginebay.errors import BackendUnavailable, ConfigError
from enginebay.gateway import capture as capture_module
from enginebay.gateway.app import build_app
from enginebay.gateway.call import Attempt, Call, Client, Outcome
from enginebay.gateway.capture import TrafficCapture
from enginebay.gateway.logs import make_logger
from enginebay.loadtest.traces import mooncake, read_trace
from enginebay.types import Feature, GenerationRequest, Prompt, SamplingParams, Text, TokenIds, Usage

SECRET = "tell nobody about the merger of"


class WordTokens(ScriptedBackend):
    """A token for each word, the same wherever the word stands."""

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(crc32(word.encode()) % 50_000 for word in prompt_words(prompt))


def serving(path: Path, make_backend=WordTokens, **options) -> RunningServer:
    return RunningServer(make_backend, make_capture=lambda log: TrafficCapture(path, log=log, **options))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def completion(prompt: object, max_tokens: int = 3, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "max_tokens": max_tokens, **more}


def test_each_request_becomes_a_line_with_its_lengths_and_the_hashes_of_its_beginnings(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"
    with serving(path, block_tokens=2) as server:
        server.post("/v1/completions", completion("one two three four five"))
        server.post("/v1/completions", completion("one two three four six seven", 4))
        server.post("/v1/completions", completion("two one three four five", 5))
    first, second, third = lines_of(path)
    assert [(line["input_length"], line["output_length"]) for line in (first, second, third)] == [
        (5, 3),
        (6, 4),
        (5, 5),
    ]
    assert [len(line["hash_ids"]) for line in (first, second, third)] == [3, 3, 3]
    assert first["hash_ids"][:2] == second["hash_ids"][:2]
    assert first["hash_ids"][2] != second["hash_ids"][2]
    # a block stands for all before it too: equal words behind another beginning are another block
    assert not set(first["hash_ids"]) & set(third["hash_ids"])
    assert first["timestamp"] == 0
    assert all(isinstance(line["timestamp"], int) for line in (first, second, third))
    assert set(first) == {"timestamp", "input_length", "output_length", "hash_ids"}
    assert read_trace(path).block_tokens == 2


def test_chats_streams_choices_and_token_ids_are_captured_too(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"
    message = {"role": "user", "content": "a b c"}
    with serving(path) as server:
        server.post("/v1/chat/completions", {"messages": [message], "max_tokens": 2})
        server.exchange("POST", "/v1/completions", json.dumps(completion("a b", stream=True)).encode())
        server.post("/v1/completions", completion("a b", n=2))
        server.post("/v1/completions", completion([7, 8, 9, 10]))
    lengths = [(line["input_length"], line["output_length"]) for line in lines_of(path)]
    assert lengths == [(3, 2), (2, 3), (2, 3), (2, 3), (4, 3)]


def test_a_request_that_was_cancelled_is_there_with_what_it_had_produced(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"
    with serving(path) as server:
        for prompt in ("stall here", "hang here please"):
            body = json.dumps(completion(prompt, 9, stream=True)).encode()
            with server.connection() as connection:
                connection.sendall(http_request("POST", "/v1/completions", body))
                server.wait_until(lambda: server.backend.num_running == 1)
                if prompt.startswith("stall"):
                    received = b""
                    while b"w0" not in received:
                        received += connection.recv(65536)
            server.wait_until(lambda: server.backend.num_running == 0)
    assert [(line["input_length"], line["output_length"]) for line in lines_of(path)] == [(2, 1), (3, 0)]
    # asked again it is one token: the prompt was work
    assert [request.num_output_tokens for request in read_trace(path).requests] == [1, 1]


def test_a_request_that_fails_half_way_is_there_and_one_that_is_refused_is_not(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"
    with serving(path) as server:
        assert server.post("/v1/completions", completion("break now"))[0] == 500
        assert server.post("/v1/completions", completion("too long", 1000))[0] == 400
    assert [(line["input_length"], line["output_length"]) for line in lines_of(path)] == [(2, 2)]


def test_no_text_reaches_the_file_and_two_captures_cannot_be_compared(tmp_path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in files:
        with serving(path, block_tokens=2) as server:
            server.post("/v1/completions", completion(SECRET))
    for path in files:
        assert not [word for word in SECRET.split() if word in path.read_text()]
    one, two = (set(lines_of(path)[0]["hash_ids"]) for path in files)
    assert not one & two


def test_captures_with_one_salt_can_be_compared(tmp_path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in files:
        with serving(path, block_tokens=2, salt=b"of the week") as server:
            server.post("/v1/completions", completion(SECRET))
    assert lines_of(files[0])[0]["hash_ids"] == lines_of(files[1])[0]["hash_ids"]


def test_a_backend_that_tells_no_tokens_still_gives_lengths(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"
    features = ALL_BUT_STRUCTURE - {Feature.COUNT_TOKENS}
    with serving(path, lambda: ScriptedBackend(features=features)) as server:
        server.post("/v1/completions", completion("one two three"))
    assert lines_of(path) == [{"timestamp": 0, "input_length": 3, "output_length": 3}]


def test_what_cannot_be_told_is_counted_and_said_and_the_answer_is_given_all_the_same(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"

    class Silent(ScriptedBackend):
        async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
            raise BackendUnavailable("no tokenizer today", backend="scripted")

    with serving(path, Silent) as server:
        body = json.dumps(completion("hang", stream=True)).encode()
        with server.connection() as connection:
            connection.sendall(http_request("POST", "/v1/completions", body))
            server.wait_until(lambda: server.backend.num_running == 1)
        server.wait_until(lambda: server.backend.num_running == 0)
        assert server.post("/v1/completions", completion("one two"))[0] == 200
    assert len(lines_of(path)) == 1
    assert "num_lost=1" in server.log.getvalue() or '"num_lost": 1' in server.log.getvalue()
    assert "missing from the capture" in server.log.getvalue()


def test_a_prompt_of_no_length_is_lost_and_does_not_spoil_the_other_lines(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"

    class CountsNothing(ScriptedBackend):
        async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
            return ()

    with serving(path, CountsNothing) as server:
        body = json.dumps(completion("hang", stream=True)).encode()
        with server.connection() as connection:
            connection.sendall(http_request("POST", "/v1/completions", body))
            server.wait_until(lambda: server.backend.num_running == 1)
        server.wait_until(lambda: server.backend.num_running == 0)
        assert server.post("/v1/completions", completion("one two"))[0] == 200
    assert [request.num_input_tokens for request in read_trace(path).requests] == [2]
    assert "missing from the capture" in server.log.getvalue()


def test_a_file_that_exists_is_not_written_over(tmp_path) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_text("precious\n")
    with pytest.raises(ConfigError, match="exists already"):
        TrafficCapture(path, log=make_logger())
    with pytest.raises(ConfigError, match="No such file or directory"):
        TrafficCapture(tmp_path / "nowhere" / "traffic.jsonl", log=make_logger())
    assert path.read_text() == "precious\n"


def call_of(prompt: Prompt, *, arrived_at: float) -> Call:
    request = GenerationRequest(request_id="r", prompt=prompt, sampling=SamplingParams(max_tokens=2))
    return Call(
        request_id="r",
        client=Client(address=""),
        model="scripted",
        requests=[request],
        arrived_at=arrived_at,
        body_bytes=0,
        attempts=[Attempt("0", arrived_at)],
    )


def outcome_of(*usages: Usage) -> Outcome:
    return Outcome(
        kind="finished",
        error_code=None,
        num_prompt_tokens=3,
        num_cached_tokens=None,
        num_output_tokens=2,
        num_unbilled_tokens=0,
        usages=usages,
        ended_at=110.0,
    )


def test_lines_lie_in_order_of_arrival_although_they_are_written_when_requests_end(tmp_path, monkeypatch) -> None:
    path = tmp_path / "traffic.jsonl"
    capture = TrafficCapture(path, log=make_logger())
    as_written: list[dict] = []

    def sort_by_arrival(path: Path) -> None:
        as_written.extend(lines_of(path))
        mooncake.sort_by_arrival(path)

    monkeypatch.setattr(capture_module, "sort_by_arrival", sort_by_arrival)

    async def main() -> None:
        app = build_app(WordTokens(), log=make_logger())
        capture.begin(app.served.models)
        slow, quick = (
            call_of(Text("first of all"), arrived_at=100.0),
            call_of(TokenIds((1, 2)), arrived_at=101.25),
        )
        for call in (slow, quick):
            capture.before_engine(call, call.attempts[0])
        for call in (quick, slow):
            capture.at_end(call, outcome_of(Usage(3, 2)))
        await capture.end()

    asyncio.run(main())
    assert [line["timestamp"] for line in as_written] == [1250, 0]
    assert [line["timestamp"] for line in lines_of(path)] == [0, 1250]


def test_a_queue_that_is_full_loses_lines_and_never_holds_up_an_answer(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(capture_module, "MAX_WAITING", 2)
    path = tmp_path / "traffic.jsonl"
    may_count = asyncio.Event()

    class SlowTokenizer(WordTokens):
        async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
            await may_count.wait()
            return await super().count_tokens(prompt)

    with serving(path, SlowTokenizer) as server:
        for _ in range(5):  # one is being counted, two wait, two are lost
            assert server.post("/v1/completions", completion("one two"))[0] == 200
        server.loop.call_soon_threadsafe(may_count.set)
    assert len(lines_of(path)) == 3
