"""Frames between custodian and workers: round trips in any pieces, and nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.execution import control
from openkcm.execution.records import ObjectRecord

RECORD = ObjectRecord(
    uid="u-1", registration="pay", object_type=2, state=1, l3_version=3, wrapped=b"w" * 60, attributes=b"a" * 8
)
FROM_WORKER = [
    control.Hello(7, True),
    control.Serving(),
    control.Identify(1, "f" * 64, "a" * 64, ("spiffe://a/b",)),
    control.KeysOf(2, "acme", "pay"),
    control.Fetch(3, "acme", "u-1"),
    control.Put(4, "acme", RECORD, 0),
    control.HandOutsWait(),
]
FROM_CUSTODIAN = [
    control.Identity(1, "acme", "eu", "pay", "pay", "p", "e", 3, 10),
    control.Denied(1, "who"),
    control.Keys(0, "acme", "pay", 2, {1: (4, 9), 2: (5, 1)}, "active"),
    control.Record(3, 8, RECORD),
    control.Record(3, 0, None),
    control.Stored(4, 9),
    control.Refused(4, "conflict", "no"),
    control.Cut("e"),
    control.Trust(b"der"),
    control.Serve(),
    control.Stop(),
]


@pytest.mark.parametrize(
    ("direction", "messages"), [(control.FromWorker, FROM_WORKER), (control.FromCustodian, FROM_CUSTODIAN)]
)
@given(cut=st.integers(1, 97))
def test_messages_arrive_whole_however_the_socket_cuts_them(direction, messages, cut):
    stream = b"".join(map(control.frame, messages))
    frames = control.Frames(direction)
    got = [m for i in range(0, len(stream), cut) for m in frames.feed(stream[i : i + cut])]
    assert got == messages


def test_a_frame_over_the_limit_is_refused_before_it_is_there():
    with pytest.raises(control.FrameError):
        control.Frames(control.FromWorker).feed((3 << 20).to_bytes(4, "big"))
    with pytest.raises(control.FrameError):
        control.frame(control.Refused(1, "x", "y" * (3 << 20)))


@pytest.mark.parametrize("message", FROM_CUSTODIAN)
def test_a_worker_cannot_say_what_only_the_custodian_says(message):
    with pytest.raises(control.FrameError):
        control.Frames(control.FromWorker).feed(control.frame(message))


@given(st.binary(max_size=200))
def test_any_other_bytes_are_a_frame_error(data):
    try:
        control.Frames(control.FromWorker).feed(len(data).to_bytes(4, "big") + data)
    except control.FrameError:
        return
