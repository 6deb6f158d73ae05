"""Frames are found in what is received, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from shimpy.transport.ttrpc.frames import MAX_PAYLOAD, Frame, FrameReader, encode
from tests.support.rawttrpc import HEADER, frame

streams = st.integers(0, 2**32 - 1)
types = st.integers(0, 255)
frames = st.builds(
    lambda stream, frame_type, payload: Frame(stream, frame_type, len(payload), payload),
    streams,
    types,
    st.binary(max_size=40),
)


def test_a_header_of_ten_bytes_and_the_payload() -> None:
    assert encode(7, 1, b"abc") == b"\0\0\0\3\0\0\0\7\1\0abc"


@given(sent=st.lists(frames, max_size=6), cuts=st.lists(st.integers(1, 30), max_size=20))
def test_frames_come_out_as_they_were_sent(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode(each.stream, each.type, each.payload or b"") for each in sent)
    reader = FrameReader()
    received = []
    for cut in [*cuts, len(data)]:
        received += reader.feed(data[:cut])
        data = data[cut:]

    assert received == sent


@pytest.mark.parametrize(("received", "missing"), [(0, 10), (1, 9), (9, 1), (10, 50), (11, 49), (59, 1)])
def test_what_is_missing_never_reaches_into_the_next_frame(received: int, missing: int) -> None:
    reader = FrameReader()
    reader.feed(frame(1, 1, b"x" * 50)[:received])

    assert reader.missing == missing


def test_the_longest_payload_is_taken() -> None:
    payload = bytes(MAX_PAYLOAD)

    assert FrameReader().feed(frame(1, 1, payload)) == [Frame(1, 1, MAX_PAYLOAD, payload)]


def test_a_longer_one_is_read_past_in_pieces() -> None:
    reader = FrameReader()
    data = frame(3, 1, bytes(MAX_PAYLOAD + 1)) + frame(5, 1, b"next")
    received = []
    for start in range(0, len(data), 65_536):
        received += reader.feed(data[start : start + 65_536])

    assert received == [Frame(3, 1, MAX_PAYLOAD + 1, None), Frame(5, 1, 4, b"next")]


def test_a_longer_one_is_read_past_in_one_go() -> None:
    data = frame(3, 1, bytes(MAX_PAYLOAD + 1)) + frame(5, 1, b"next")

    assert FrameReader().feed(data) == [Frame(3, 1, MAX_PAYLOAD + 1, None), Frame(5, 1, 4, b"next")]


def test_a_longer_one_that_ends_with_what_was_received() -> None:
    reader = FrameReader()
    data = frame(3, 1, bytes(MAX_PAYLOAD + 1))

    assert reader.feed(data[:-1]) == []
    assert reader.missing == 1
    assert reader.feed(data[-1:]) == [Frame(3, 1, MAX_PAYLOAD + 1, None)]
    assert reader.feed(frame(5, 1)) == [Frame(5, 1, 0, b"")]


def test_what_is_read_past_is_not_kept() -> None:
    reader = FrameReader()
    reader.feed(HEADER.pack(2**32 - 1, 1, 1, 0))
    for _ in range(100):
        assert reader.feed(bytes(65_536)) == []

    assert len(reader._held) == 0
    assert reader.missing == 2**32 - 1 - 100 * 65_536
