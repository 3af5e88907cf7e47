"""The drain against real processes: who is inside, who has left, who is dead, who must be killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from openkcm.execution.arena import Board
from openkcm.execution.drain import drain

WORKER = """
import sys
from openkcm.execution.arena import Board
board = Board(int(sys.argv[2]), fd=int(sys.argv[1])); word = board.start(int(sys.argv[3]))
for line in sys.stdin:
    if line == "in\\n": board.words[word] += 1
    elif line == "turn\\n":
        while True: board.words[word] += 1
    print(board.words[word], flush=True)
"""


class Process:
    def __init__(self, board: Board, index: int) -> None:
        self.index = index
        self.child = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(board.fd), str(board.workers), str(index)],
            pass_fds=[board.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def say(self, word: str, *, answer: bool = True) -> None:
        assert self.child.stdin
        assert self.child.stdout
        print(word, file=self.child.stdin, flush=True)
        if answer:
            self.child.stdout.readline()

    def is_dead(self) -> bool:
        return self.child.poll() is not None

    def end(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def fleet():
    board = Board(3)
    workers = [Process(board, i) for i in range(3)]
    for worker in workers:
        worker.say("hello")
    yield board, workers
    for worker in workers:
        worker.end()


def test_idle_workers_are_not_waited_for(fleet) -> None:
    assert drain(*fleet, deadline_s=60) == []


def test_a_worker_stopped_inside_an_operation_is_named_and_only_it(fleet) -> None:
    board, workers = fleet
    workers[1].say("in")
    workers[2].say("in")
    workers[2].say("in")  # even again
    os.kill(workers[1].child.pid, signal.SIGSTOP)
    assert drain(board, workers, deadline_s=0.05) == [1]


def test_a_worker_that_moves_on_is_waited_for_and_not_named(fleet) -> None:
    board, workers = fleet
    workers[0].say("in")
    waits = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            workers[0].say("in")

    assert drain(board, workers, deadline_s=60, pause=pause) == []
    assert len(waits) == 3


def test_a_busy_worker_counts_as_moved_though_it_is_inside_again(fleet) -> None:
    board, workers = fleet
    workers[0].say("turn", answer=False)
    while board.counter(0) < 1000:
        select.select([], [], [], 0.001)
    for _ in range(20):
        assert drain(board, workers, deadline_s=60) == []


def test_a_worker_that_died_inside_an_operation_ends_the_wait(fleet) -> None:
    board, workers = fleet
    workers[2].say("in")
    workers[2].child.kill()
    assert drain(board, workers, deadline_s=60) == []
    assert board.counter(2) % 2 == 1
