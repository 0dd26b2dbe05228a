"""Traces of the three known formats, as their publishers write them and as others do."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginebay.errors import LoadTestError
from enginebay.loadtest.traces import TracedRequest, read_trace
from enginebay.loadtest.traces.mooncake import MooncakeLine, encode_line, sort_by_arrival
from enginebay.loadtest.traces.prefix_hashes import HASH_BITS, prefix_hashes

MOONCAKE = """\
{"timestamp": 0, "input_length": 1025, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3052, "input_length": 512, "output_length": 1, "hash_ids": [0]}

{"timestamp": 27, "input_length": 600, "output_length": 0, "hash_ids": [0, 3], "session_id": "another tool's"}
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118.5,GPT-4,417,276,693,Conversation log
"""
BURSTGPT_WITH_SESSIONS = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,ab-1,43,GPT-4,906,446,1352,Conversation log
19440161.0,ab-2,2,ChatGPT,36,29,65,Conversation log
"""
AZURE_2023 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,110,27
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-12 00:00:00.500000+00:00,2162,5
2024-05-12 00:00:00+00:00,2399,6
2024-05-12 00:01:00.001163+00:00,76,15
"""


def written(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_mooncake_is_in_milliseconds_in_order_of_arrival_and_has_blocks_of_512(tmp_path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE))
    assert trace.block_tokens == 512
    assert trace.offsets == [0.0, 0.027, 3.052]
    assert trace.requests[0] == TracedRequest(at=0.0, num_input_tokens=1025, num_output_tokens=500, hash_ids=(0, 1, 2))
    assert trace.requests[1].num_output_tokens == 1  # a prompt whose request ended before its first token
    assert trace.num_left_out == 0


@pytest.mark.parametrize("size", [16, 64, 512, 1024])
def test_the_size_of_blocks_is_found_in_the_lengths_with_and_without_the_unfinished_one(tmp_path, size: int) -> None:
    for rounded_up in (True, False):
        text = b"".join(
            encode_line(
                MooncakeLine(
                    timestamp=0,
                    input_length=length,
                    output_length=1,
                    hash_ids=tuple(range(length // size + (rounded_up and length % size > 0))),
                )
            )
            for length in (5000, 3333, 2049)
        )
        assert read_trace(written(tmp_path, text.decode())).block_tokens == size


def test_hash_ids_that_fit_no_size_are_refused_and_a_given_size_is_held_to(tmp_path) -> None:
    odd = '{"timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [0, 1, 2]}'
    even = '{"timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [0, 1, 2, 3, 4, 5, 6]}'
    with pytest.raises(LoadTestError, match=r"blocks of 512 tokens: give the size"):
        read_trace(written(tmp_path, MOONCAKE + even), block_tokens=512)
    assert read_trace(written(tmp_path, odd), block_tokens=250).block_tokens == 250
    with pytest.raises(LoadTestError, match="any usual size"):
        read_trace(written(tmp_path, odd + "\n" + even))


def test_burstgpt_is_in_seconds_and_its_failed_requests_are_left_out_and_counted(tmp_path) -> None:
    trace = read_trace(written(tmp_path, BURSTGPT))
    assert trace.requests == (
        TracedRequest(at=0.0, num_input_tokens=472, num_output_tokens=18),
        TracedRequest(at=113.5, num_input_tokens=417, num_output_tokens=276),
    )
    assert (trace.num_left_out, trace.block_tokens) == (1, None)
    assert read_trace(written(tmp_path, BURSTGPT_WITH_SESSIONS)).offsets == [0.0, 51.0]


def test_azure_gives_dates_with_ticks_or_with_zones(tmp_path) -> None:
    older = read_trace(written(tmp_path, AZURE_2023))
    assert older.offsets == pytest.approx([0.0, 0.052], abs=2e-7)
    assert [request.num_input_tokens for request in older.requests] == [4808, 110]
    newer = read_trace(written(tmp_path, AZURE_2024))
    assert newer.offsets == pytest.approx([0.0, 0.5, 60.001163])
    assert [request.num_output_tokens for request in newer.requests] == [6, 5, 15]


def test_a_window_a_bound_and_a_number_leave_the_rest_out_and_count_it(tmp_path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE))
    late = trace.between(0.02, None)
    assert late.offsets == pytest.approx([0.0, 3.025])
    assert (trace.between(0.0, 0.027).offsets, late.num_left_out) == ([0.0], 1)
    short = trace.fitting(max_input_tokens=600, max_output_tokens=None)
    assert [request.num_input_tokens for request in short.requests] == [600, 512]
    assert trace.fitting(max_input_tokens=None, max_output_tokens=400).num_left_out == 1
    assert trace.first(2).num_left_out == 1
    assert trace.first(None) is trace


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no known trace format"),
        ("a,b,c\n1,2,3", "no known trace format"),
        ('{"timestamp": 0}', r"trace:1: is no line of Mooncake's trace format.*input_length"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 1}', r"trace:1: has 0 tokens in"),
        (BURSTGPT.replace("472", "many"), r"trace:2: 'Request tokens' is 'many'"),
        (BURSTGPT.replace("472", "1.5"), r"trace:2: 'Request tokens' is '1.5', not a whole number"),
        (BURSTGPT.replace("472", "nan"), r"trace:2: 'Request tokens' is 'nan', not a number"),
        (BURSTGPT.replace("472", "inf"), r"trace:2: 'Request tokens' is 'inf', not a number"),
        (BURSTGPT.replace("118.5", "nan"), r"trace:4: 'Timestamp' is 'nan', not a number"),
        (BURSTGPT + "200,ChatGPT", r"trace:5: 'Request tokens' is '', not a number"),
        (AZURE_2023 + "2023-11-16 18:17:05", r"trace:4: 'ContextTokens' is '', not a number"),
        (AZURE_2023.replace("2023-11-16 18:17:03", "yesterday"), r"trace:2: 'TIMESTAMP' is 'yesterday"),
        (AZURE_2023.splitlines()[0], "has no request that could be replayed"),
    ],
)
def test_what_is_no_trace_is_refused_with_file_line_and_reason(tmp_path, text: str, words: str) -> None:
    with pytest.raises(LoadTestError, match=words):
        read_trace(written(tmp_path, text))


def test_a_missing_file_and_the_wrong_format_are_refused(tmp_path) -> None:
    with pytest.raises(LoadTestError, match="No such file"):
        read_trace(tmp_path / "nowhere.csv")
    with pytest.raises(LoadTestError, match=r"is no trace of BurstGPT: it has no column 'Timestamp'"):
        read_trace(written(tmp_path, AZURE_2023), "burstgpt")


def test_hashes_tell_equal_beginnings_and_nothing_else() -> None:
    def of(*token_ids: int, salt: bytes = b"a") -> tuple[int, ...]:
        return prefix_hashes(token_ids, block_tokens=2, salt=salt)

    assert of(1, 2, 3, 4, 5)[:2] == of(1, 2, 3, 4, 6)[:2]
    assert of(1, 2, 3, 4, 5)[2] != of(1, 2, 3, 4, 6)[2]
    assert of(1, 2, 3, 4)[1] != of(9, 2, 3, 4)[1]  # equal blocks behind other ones
    assert of(1, 2, 3)[1] != of(1, 2, 3, 0)[1]  # a part of a block is another block
    assert of(1, 2) != of(1, 2, salt=b"b")
    assert (of(), len(of(1)), len(of(1, 2))) == ((), 1, 1)
    assert max(prefix_hashes(range(2000), block_tokens=2, salt=b"a")) < 2**HASH_BITS


def test_lines_in_the_order_of_their_ends_are_brought_into_that_of_their_arrivals(tmp_path) -> None:
    path = written(tmp_path, MOONCAKE)
    sort_by_arrival(path)
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == [
        '{"timestamp":0', '{"timestamp":27', '{"timestamp":3052',
    ]  # fmt: skip
