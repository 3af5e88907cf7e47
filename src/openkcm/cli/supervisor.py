"""Starts processes, sees that they live, restarts them later, stops them in order. Knows nothing of what they do.

While the stack comes up a child that dies stops everything, with its log's last lines. Once it is up a dead child is
restarted after a pause that doubles, and named in the log; `strict` stops everything instead. A child whose disk was
full and has room again is restarted, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

__all__ = ["Child", "ChildFailed", "Program", "Running", "Supervisor", "start_time"]

log = logging.getLogger(__name__)
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0  # alive for so long: the next pause is the first again
READY_S: Final = 60.0
STOP_S: Final = 8.0
LOOK_S: Final = 0.1
#: Of a child's disk. Full: less than two messages of the largest size. Room: enough for a while.
FULL_BYTES: Final = 4 << 20
ROOM_BYTES: Final = 16 << 20


class ChildFailed(Exception):
    """A child died or did not become ready; the message has its log's last lines."""


class Running(Protocol):
    """A started process."""

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""

    @property
    def pid(self) -> int:
        """Its process id."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to run.

    Attributes:
        name: In logs; `DIR/logs/<name>.log` takes its output.
        start: Starts it and returns the process.
        ready: What it says when it serves, None until then. Also asked later: facts change.
        log: Where its last words are.
        store: Its directory, if what it could not write there stays unwritten until it is restarted.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    ready: Callable[[int], dict[str, Any] | None]
    log: Path
    store: Path | None = None


class Child:
    """A program, and its process of the moment."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}
        self.started = 0.0
        self.pause_s = FIRST_PAUSE_S
        self.due: float | None = None
        self.restarts = 0
        self.was_full = False

    @property
    def pid(self) -> int:
        """The process id, 0 while there is none."""
        return self.process.pid if self.process is not None else 0

    def last_words(self, lines: int = 20) -> str:
        """Return the end of the log."""
        if not self.program.log.exists():
            return "(it wrote no log)"
        return "\n".join(self.program.log.read_text(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Children in the order of their start; they are stopped in the reverse one.

    Args:
        changed: Called whenever a pid or a fact of a child has changed.
    """

    def __init__(self, *, strict: bool, changed: Callable[[], None]) -> None:
        self.children: dict[str, Child] = {}
        self._strict = strict
        self._changed = changed
        self._stop = threading.Event()

    def ask_to_stop(self) -> None:
        """Have `watch` and `bring_up` end; safe in a signal handler."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stop.is_set()

    def bring_up(self, programs: Sequence[Program], *, timeout_s: float = READY_S) -> None:
        """Start programs at once, and return when all of them are ready.

        Raises:
            ChildFailed: One died, or was not ready in time, or somebody asked to stop.
        """
        fresh = []
        for program in programs:
            child = self.children[program.name] = Child(program)
            self._start(child)
            fresh.append(child)
        deadline = time.monotonic() + timeout_s
        waiting = list(fresh)
        while waiting:
            if self._stop.wait(LOOK_S / 4):
                raise ChildFailed("asked to stop while starting")
            self.check_alive()
            waiting = [child for child in waiting if not self._refresh(child)]
            if waiting and time.monotonic() > deadline:
                child = waiting[0]
                raise ChildFailed(f"{child.program.name} was not ready within {timeout_s} s:\n{child.last_words()}")

    def check_alive(self) -> None:
        """Return when every child lives; for the time while the stack comes up.

        Raises:
            ChildFailed: One does not.
        """
        for child in self.children.values():
            if child.process is not None and child.process.poll() is not None:
                raise ChildFailed(
                    f"{child.program.name} ended with status {child.process.returncode}:\n{child.last_words()}"
                )

    def watch(self, then: Callable[[], None] = lambda: None) -> None:
        """Keep all children alive until somebody asks to stop; `then` is called after each look.

        Raises:
            ChildFailed: One died, and this supervisor is strict.
        """
        while not self._stop.wait(LOOK_S):
            self.watch_once()
            then()

    def watch_once(self) -> None:
        """Look after every child once.

        Raises:
            ChildFailed: One died, and this supervisor is strict.
        """
        for child in self.children.values():
            self._look_after(child)

    def stop_all(self) -> None:
        """Stop the children in the reverse order of their start, each in order, and kill what does not listen."""
        for child in reversed(list(self.children.values())):
            _stop(child)

    def end(self, name: str) -> None:
        """Stop one child in order and forget it: it is not started again."""
        child = self.children.pop(name, None)
        if child is not None:
            _stop(child)
            self._changed()

    def replace(self, successor: Program, *, timeout_s: float = READY_S) -> None:
        """Start a child's successor beside it, and return when it has taken over and the old one has ended.

        Raises:
            ChildFailed: It has not; the old one serves on, or is started again as any dead child is.
        """
        child = self.children[successor.name]
        old, process = child.process, successor.start()
        deadline = time.monotonic() + timeout_s
        while (facts := successor.ready(process.pid)) is None:
            if process.poll() is not None or time.monotonic() > deadline or self._stop.wait(LOOK_S / 4):
                process.kill()
                process.wait()
                raise ChildFailed(f"{successor.name} was not taken over:\n{child.last_words()}")
        if old is not None:
            old.wait()  # it has given its database up
        child.process, child.facts, child.started, child.due = process, facts, time.monotonic(), None
        self._changed()

    def _look_after(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is not None and child.process.poll() is None:
            if now - child.started > STEADY_S:
                child.pause_s = FIRST_PAUSE_S
            if self._has_room_again(child):
                log.warning("the disk of %s was full and has room again: it is restarted", child.program.name)
                _stop(child)
                child.restarts += 1
                self._start(child)
            self._refresh(child)
            return
        name = child.program.name
        if child.due is None:
            status = child.process.returncode if child.process is not None else "never started"
            if self._strict:
                raise ChildFailed(f"{name} ended with status {status}:\n{child.last_words()}")
            log.warning("%s ended with status %s; starting it again in %.2f s", name, status, child.pause_s)
            child.due, child.pause_s = now + child.pause_s, min(2 * child.pause_s, LONGEST_PAUSE_S)
        elif now >= child.due:
            child.restarts += 1
            try:
                self._start(child)
                log.warning("%s started again (%d), pid %d", name, child.restarts, child.pid)
            except OSError as bad:
                log.error("%s could not be started: %s", name, bad)  # noqa: TRY400 -- its own words say enough
                child.due = now + child.pause_s

    @staticmethod
    def _has_room_again(child: Child) -> bool:
        if child.program.store is None or not child.program.store.exists():
            return False
        disk = os.statvfs(child.program.store)
        free = disk.f_bavail * disk.f_frsize
        if free < FULL_BYTES and not child.was_full:
            log.error("the disk of %s is full: %d bytes are left at %s", child.program.name, free, child.program.store)
            child.was_full = True
        if child.was_full and free > ROOM_BYTES:
            child.was_full = False
            return True
        return False

    def _start(self, child: Child) -> None:
        child.facts = {}
        child.process = child.program.start()
        child.started, child.due = time.monotonic(), None
        self._changed()

    def _refresh(self, child: Child) -> bool:
        facts = child.program.ready(child.pid)
        if facts is not None and facts != child.facts:
            child.facts = facts
            self._changed()
        return facts is not None


def _stop(child: Child) -> None:
    process = child.process
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        log.warning("%s did not stop within %s s: killed", child.program.name, STOP_S)
        process.kill()
        process.wait()


def start_time(pid: int) -> int | None:
    """Return when a process started (kernel ticks since boot), None when it is gone: tells a pid from a reused one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Field 22; the second field is the program's name in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    return None


def end_leftover(pid: int, started: int) -> bool:
    """Kill a process of an earlier supervisor that was itself killed; return whether there was one."""
    if start_time(pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while start_time(pid) == started and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    with contextlib.suppress(ProcessLookupError):
        if start_time(pid) == started:
            os.kill(pid, signal.SIGKILL)
    return True
