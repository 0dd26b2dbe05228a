from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebay.errors import UpstreamError
from enginebay.wire.sse import SseEvent, SseParser

USUAL = b'data: {"text":"a"}\n\ndata: {"text":"\xf0\x9f\x99\x82"}\n\ndata: [DONE]\n\n'


def parse(*pieces: bytes) -> list[SseEvent]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def data(*pieces: bytes) -> list[bytes]:
    return [event.data for event in parse(*pieces)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (USUAL, [b'{"text":"a"}', '{"text":"🙂"}'.encode(), b"[DONE]"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\n\r\ndata: b\r\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\ndata\n\n", [b"a\nb\n"]),
        (b": keep-alive\n\ndata: a\n\n: bye\n\n", [b"a"]),
        (b"data: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"id: 7\nretry: 5\ndata: a\nunknown: x\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"event: x\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n", []),
        (b"data: \n\n", [b""]),
        (b"", []),
    ],
)
def test_events_are_those_of_the_standard_whole_and_byte_by_byte(stream, events):
    assert data(stream) == events
    assert data(*(stream[index : index + 1] for index in range(len(stream)))) == events


def test_the_name_of_an_event_is_kept_and_belongs_to_it_alone():
    assert parse(b"event: error\ndata: a\n\ndata: b\n\n") == [SseEvent(b"a", b"error"), SseEvent(b"b")]


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.one_of(
    st.sampled_from([b"", b": comment", b"data", b"event: error", b"id: 1", b"data: [DONE]"]),
    st.text(max_size=8).map(lambda text: b"data: " + text.encode().replace(b"\n", b"").replace(b"\r", b"")),
)
streams = st.lists(st.tuples(lines, line_ends), max_size=20).map(lambda pairs: b"".join(a + b for a, b in pairs))


@given(stream=st.one_of(streams, st.just(USUAL)), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_events(stream, cuts):
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert parse(*pieces) == parse(*(bytes([byte]) for byte in stream))


@given(stream=st.binary(max_size=200), cut=st.integers(0, 200))
def test_no_bytes_break_the_parser(stream, cut):
    assert parse(stream[:cut], stream[cut:]) == parse(stream)


def feed_often(parser: SseParser, piece: bytes) -> None:
    for _ in range(100):
        parser.feed(piece)


def test_an_event_without_end_is_bounded():
    with pytest.raises(UpstreamError, match="longer than 1000 bytes"):
        feed_often(SseParser(max_event_bytes=1000), b"data: " + b"x" * 50)


def test_an_event_of_many_lines_is_bounded():
    with pytest.raises(UpstreamError, match="longer than 1000 bytes"):
        feed_often(SseParser(max_event_bytes=1000), b"data: " + b"x" * 50 + b"\n")


def test_it_is_known_whether_the_bytes_end_inside_an_event():
    parser = SseParser()
    parser.feed(b"data: a\n\ndata: b")
    assert parser.is_inside_event
    parser.feed(b"\n\n")
    assert not parser.is_inside_event
