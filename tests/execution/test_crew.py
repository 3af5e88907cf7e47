"""What the custodian sends its workers, on a real socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from openkcm.execution import control
from openkcm.execution.crew import Crew, _Worker


async def test_answers_that_are_ready_together_go_in_one_piece_and_no_news_overtakes_them(tmp_path: Any) -> None:
    unused: Any = None
    crew = Crew(1, unused, unused, unused, str(tmp_path / "node.sqlite"), require_secretmem=False)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.setblocking(False)
    worker = crew._workers[0] = _Worker(0, unused, ours, unused)
    frames = control.Frames(control.FromCustodian)  # type: ignore[arg-type]
    answers = [control.Stored(n, n) for n in range(1, 4)]

    for answer in answers:
        crew._reply(worker, answer)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    await asyncio.sleep(0)
    assert frames.feed(theirs.recv(4096)) == answers

    crew._reply(worker, answers[0])
    crew.tell(control.Cut("e"))
    assert frames.feed(theirs.recv(4096)) == [answers[0], control.Cut("e")]
    await asyncio.sleep(0)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    ours.close()
    theirs.close()
