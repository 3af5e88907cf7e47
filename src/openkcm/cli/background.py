"""One stack a state directory: the lock that says so, the background start, the stop, what a killed one left behind."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from openkcm.cli.layout import Layout
from openkcm.cli.supervisor import end_leftover, start_time

__all__ = [
    "COMMAND", "AlreadyRunning", "Saved", "announce_ready", "detach", "end_leftovers", "held", "log_to", "running",
    "saved", "saved_layout", "stop",
]  # fmt: skip

log = logging.getLogger("openkcm.up")
STOP_S: Final = 60.0
FAILED: Final = 1
COMMAND: Final = (sys.executable, "-m", "openkcm.cli.main")
READY_FD: Final = "OPENKCM_READY_FD"  # set by `detach` for its child


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What a second start on the same directory goes on with: residences are linked to these roots."""

    port_base: int
    aws: bool
    pkcs11: bool = False
    nodes_per_region: int


class AlreadyRunning(Exception):
    """Another stack holds the directory."""


def saved_layout(state: Path) -> Layout:
    """Return the layout of the last start on a directory.

    Raises:
        FileNotFoundError: No stack was ever started there.
    """
    last = saved(state)
    if last is None:
        raise FileNotFoundError(f"{state}: no stack was started with this directory")
    return Layout(state, port_base=last.port_base, aws=last.aws, pkcs11=last.pkcs11,
        nodes_per_region=last.nodes_per_region,
    )  # fmt: skip


def saved(state: Path) -> Saved | None:
    """Return what the last start on a directory was; None when there was none."""
    path = state / "up.json"
    return msgspec.json.decode(path.read_bytes(), type=Saved) if path.exists() else None


def stop(state: Path) -> int:
    """Stop the stack that runs on `state`, and wait until it has stopped."""
    holder = running(state)
    if holder is None:
        print(f"no stack runs on {state}")
        return 0
    os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while start_time(holder) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    if start_time(holder) is not None:
        print(f"the stack on {state} (pid {holder}) did not stop within {STOP_S:.0f} s", file=sys.stderr)
        return FAILED
    print(f"stopped the stack on {state}")
    return 0


def detach(state: Path, flags: Sequence[str]) -> int:
    """Start `openkcm up FLAGS` in a session of its own; return when it is ready or has failed."""
    read_end, write_end = os.pipe()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    (state / "logs").mkdir(exist_ok=True, mode=0o700)
    output = state / "logs" / "console.log"
    with output.open("wb") as console:
        child = subprocess.Popen(
            [*COMMAND, "up", "--state", str(state), *flags],
            env={**os.environ, READY_FD: str(write_end)},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
        )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as ready:
        told = ready.read()  # ends when the child says so, or dies
    if told:
        print(output.read_text(), end="")
        print(f"running in the background, pid {child.pid}; stop it with: scripts/up --stop --state {state}")
        return 0
    child.wait()
    print(output.read_text(), end="", file=sys.stderr)
    return FAILED


def announce_ready() -> None:
    """Tell the waiting `detach`, if there is one."""
    inherited = os.environ.pop(READY_FD, None)
    if inherited is not None:
        os.write(int(inherited), b"ready")
        os.close(int(inherited))


def running(state: Path) -> int | None:
    """Return the pid of the stack that holds the directory, None when none does."""
    lock = state / "run" / "up.lock"
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return int(lock.read_text() or 0) or None
    return None


@contextlib.contextmanager
def held(state: Path) -> Iterator[None]:
    """Hold the directory: one stack at a time. The kernel lets go with the process, however it ends."""
    (state / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state / "run" / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as bad:
            raise AlreadyRunning(f"a stack runs on {state} already: scripts/up --stop --state {state}") from bad
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def end_leftovers(state: Path) -> None:
    """End the children of a supervisor that was itself killed; the lock says that it is gone."""
    path = state / "run" / "up.json"
    if not path.exists():
        return
    for name, (pid, started) in msgspec.json.decode(path.read_bytes()).get("children", {}).items():
        if started is not None and end_leftover(pid, started):
            log.warning("ended %s (pid %d), left over from a stack that was killed", name, pid)


def log_to(state: Path) -> None:
    """Log to DIR/logs/up.log, and warnings to the screen."""
    logs = state / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.FileHandler(logs / "up.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler, screen])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells every request
