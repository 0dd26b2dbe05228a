from __future__ import annotations

import itertools
import socket

from hypothesis import given
from hypothesis import strategies as st

from enginebay.backends.worker.channel import ChildChannel, FrameSplitter, framed


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(0, 400)))
def test_frames_come_out_whole_however_they_were_cut(payloads: list[bytes], cuts: list[int]):
    data = b"".join(framed(payload) for payload in payloads)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = FrameSplitter()
    frames = [frame for start, end in itertools.pairwise(edges) for frame in splitter.feed(data[start:end])]
    assert frames == payloads


def test_the_child_takes_all_frames_that_have_come_and_does_not_wait_for_more():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = ChildChannel(theirs)
        assert channel.receive(0) == []
        ours.sendall(framed(b"one") + framed(b"two") + framed(b"three")[:5])
        assert channel.receive(None) == [b"one", b"two"]
        ours.sendall(framed(b"three")[5:])
        assert channel.receive(None) == [b"three"]


def test_the_child_may_be_told_to_wait_longer_than_a_poll_can():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = ChildChannel(theirs)
        ours.sendall(framed(b"one"))
        assert channel.receive(1e300) == [b"one"]


def test_the_child_hears_what_came_before_the_parent_closed():
    ours, theirs = socket.socketpair()
    with theirs:
        channel = ChildChannel(theirs)
        with ours:
            ours.sendall(framed(b"last"))
        assert channel.receive(None) == [b"last"]
        assert channel.is_closed
        assert channel.receive(None) == []
        channel.send(b"into the void")
        assert channel.is_closed
