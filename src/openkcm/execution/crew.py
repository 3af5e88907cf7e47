"""The custodian's workers: started, listened to, drained, killed and replaced. Decides nothing about keys.

Workers are exec'd, not forked (a forked child would hold the custodian's credentials), get their memory as descriptors,
and die with us. They are spawned from the main thread: PDEATHSIG follows the spawning thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from openkcm.contract.fleet import Limits
from openkcm.execution import control
from openkcm.execution.arena import RegionArena
from openkcm.execution.board import BOARD_PULSE, Board
from openkcm.execution.cells import Scratch
from openkcm.execution.configuration import KmipListener
from openkcm.execution.drain import drain
from openkcm.execution.handoutlog import HandOutLog, path_of, paths

__all__ = ["Crew", "Handler"]

_log: Final = logging.getLogger("openkcm.crew")
READ_BYTES: Final = 1 << 16
RESTART_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0)  # back-off of one worker's place; the last one repeats
HUNG_CHECKS: Final = 5  # seconds without a pulse after which a worker is replaced
MAX_WORKERS: Final = 256
SHORT_DRAIN_S: Final = 0.05
LEAVE_S: Final = 5.0
LOOK_S: Final = 0.01
Handler = Callable[[control.Message], Awaitable[control.Message | None]]


class _Worker:
    """One place on the board and the process that has it."""

    def __init__(self, index: int, process: subprocess.Popen[bytes], ours: socket.socket, scratch: Scratch) -> None:
        self.index, self.process, self.socket, self.scratch = index, process, ours, scratch
        self.frames = control.Frames(control.FromWorker)  # type: ignore[arg-type]  # msgspec takes a union
        self.mapped = self.listening = self.serving = self.sealed = False
        self.pulse, self.still = 0, 0
        self.tasks: set[asyncio.Task[None]] = set()

    def is_dead(self) -> bool:
        return self.process.poll() is not None


class Crew:
    """All workers of a node."""

    def __init__(
        self,
        count: int,
        arena: RegionArena,
        listener: KmipListener,
        limits: Limits,
        database: str,
        *,
        require_secretmem: bool,
    ) -> None:
        self.board = Board(MAX_WORKERS)  # pages that nobody touches take no memory
        self._count, self._arena, self._listener, self._limits = count, arena, listener, limits
        self._database, self._require_secretmem = database, require_secretmem
        self._workers: dict[int, _Worker] = {}
        self._handed = {path: HandOutLog.open(path) for path in paths(database)}  # what earlier workers have left
        self._serving = self._listening = self._stopping = False
        self._failures = [0] * MAX_WORKERS
        self._trusted: dict[bytes, None] = {}
        self.handler: Handler | None = None
        self.on_change: Callable[[], None] = lambda: None

    # --- processes --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every worker. Call it from the main thread, with the event loop running."""
        for index in range(self._count):
            self._spawn(index)

    def _spawn(self, index: int) -> None:
        if self._stopping or index >= self._count or index in self._workers:
            return
        self.board.reset(index)
        scratch = Scratch(require_secretmem=self._require_secretmem)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        handed = path_of(self._database, index)
        if handed not in self._handed:
            self._handed[handed] = HandOutLog.open(handed)
        _, handed_fd = self._handed[handed]
        fds = [self._arena.fd, scratch.fd, self.board.fd, theirs.fileno(), handed_fd]
        configuration = {
            "index": index,
            "arena_fd": self._arena.fd,
            "arena_size": self._arena.size,
            "arena_mode": self._arena.mode,
            "scratch_fd": scratch.fd,
            "scratch_mode": scratch.mode,
            "board_fd": self.board.fd,
            "board_workers": self.board.workers,
            "control_fd": theirs.fileno(),
            "handed_fd": handed_fd,
            "parent_pid": os.getpid(),
            "database": self._database,
            "listener": msgspec.to_builtins(self._listener),
            "limits": msgspec.to_builtins(self._limits),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "openkcm.execution.worker", json.dumps(configuration)],
            pass_fds=fds,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}, "LD_BIND_NOW": "1"},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        scratch.hand_over()
        worker = self._workers[index] = _Worker(index, process, ours, scratch)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable, worker)

    async def listen(self) -> None:
        """Return when every worker listens and accepts nobody yet."""
        self._listening = True
        for worker in self._workers.values():
            if worker.mapped:
                self._send(worker, control.Listen())
        # A look every 10 ms, as long as it takes: the caller has the deadline.
        while not all(i in self._workers and self._workers[i].listening for i in range(self._count)):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    async def leave(self) -> None:
        """Return when the workers have answered what was asked of them, and ended; or after LEAVE_S."""
        self._stopping = True
        self.tell(control.Leave())
        deadline = asyncio.get_running_loop().time() + LEAVE_S
        while self._workers and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(LOOK_S)

    def serve(self) -> None:
        """Have the workers open their listeners: the node is at its critical head."""
        self._serving = True
        for worker in self._workers.values():
            if worker.mapped:
                self._send(worker, control.Serve())

    def trust(self, certificates: Iterable[bytes]) -> None:
        """Have handshakes take chains that end in these CAs (DER). One that is left out is refused by the custodian."""
        wanted = dict.fromkeys(certificates)
        for certificate in wanted.keys() - self._trusted.keys():
            for worker in list(self._workers.values()):
                if worker.mapped:
                    self._send(worker, control.Trust(certificate))
        self._trusted = wanted

    def resize(self, count: int) -> None:
        """Have so many workers from now on; those who are too many serve their connections to the end.

        Raises:
            ValueError: Not 1 to MAX_WORKERS.
        """
        if not 1 <= count <= MAX_WORKERS:
            raise ValueError(f"{count} workers; 1 to {MAX_WORKERS} are possible")
        self._count = count
        for index in range(count):
            if index not in self._workers:
                self._spawn(index)
        for index, worker in list(self._workers.items()):
            if index >= count:
                self._send(worker, control.Retire())
        self.on_change()

    async def watch(self) -> None:
        """Replace workers whose loop does not go round any more, for ever. Counts its own rounds: no clock can jump."""
        while True:
            await asyncio.sleep(1)
            for worker in [w for w in self._workers.values() if w.mapped]:
                pulse = self.board.words[self.board.start(worker.index) + BOARD_PULSE]
                worker.still = worker.still + 1 if pulse == worker.pulse else 0
                worker.pulse = pulse
                if worker.still >= HUNG_CHECKS:
                    _log.warning("worker %d has had no pulse for %d s; it is killed", worker.index, HUNG_CHECKS)
                    self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.wait()  # reaped before anybody says it does nothing any more
        worker.scratch.wipe()
        self._gone(worker)

    async def stop(self) -> None:
        """End all workers in order; kill what does not end."""
        self._stopping = True
        for worker in list(self._workers.values()):
            self._send(worker, control.Stop())
        loop = asyncio.get_running_loop()
        for worker in list(self._workers.values()):
            try:
                await loop.run_in_executor(None, worker.process.wait, 2)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            self._close(worker)

    def _gone(self, worker: _Worker) -> None:
        """Bury a worker and put another one in its place, slower each time it fails."""
        if self._workers.get(worker.index) is not worker:
            return
        self._close(worker)
        if self._stopping or worker.index >= self._count:
            self.on_change()
            return
        wait = RESTART_S[min(self._failures[worker.index], len(RESTART_S) - 1)]
        self._failures[worker.index] += 1
        _log.warning("worker %d (pid %d) is gone; another one in %.1f s", worker.index, worker.process.pid, wait)
        asyncio.get_running_loop().call_later(wait, self._spawn, worker.index)
        self.on_change()

    def _close(self, worker: _Worker) -> None:
        if self._workers.get(worker.index) is not worker:
            return
        del self._workers[worker.index]
        asyncio.get_running_loop().remove_reader(worker.socket.fileno())
        worker.socket.close()
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()
        worker.scratch.close()
        for task in worker.tasks:
            task.cancel()

    def hand_out_logs(self) -> list[HandOutLog]:
        """The logs of the workers that are and were."""
        return [log for log, _ in self._handed.values()]

    @property
    def pids(self) -> list[int]:
        """The live workers' process ids, by place."""
        return [w.process.pid for _, w in sorted(self._workers.items())]

    @property
    def serving(self) -> bool:
        """Whether some worker's listener is open: one that is added, or replaced, makes no node deaf."""
        return not self._stopping and any(w.serving and index < self._count for index, w in self._workers.items())

    @property
    def ready(self) -> bool:
        """Whether every place has a worker whose listener is open."""
        return all(index in self._workers and self._workers[index].serving for index in range(self._count))

    @property
    def sealed(self) -> bool:
        """Whether every worker's view of the arena is sealed by the kernel."""
        return bool(self._workers) and all(w.sealed for w in self._workers.values())

    # --- step (3) of the kill switch --------------------------------------------------------------------------------

    def drain(self) -> None:
        """Return when no worker is inside an operation begun before; kill and replace what does not move."""
        for index in drain(self.board, list(self._workers.values())):
            worker = self._workers[index]
            _log.warning("worker %d did not drain; it is killed", index)
            self._kill(worker)

    def drained(self) -> bool:
        """Wait a little until no worker is inside an operation begun before; whether that is so. Kills nobody."""
        return not drain(self.board, list(self._workers.values()), SHORT_DRAIN_S)

    # --- talk -------------------------------------------------------------------------------------------------------

    def tell(self, message: control.Message) -> None:
        """Send news to every worker."""
        for worker in list(self._workers.values()):
            self._send(worker, message)

    def _send(self, worker: _Worker, message: control.Message) -> None:
        data = control.frame(message)
        try:
            with contextlib.suppress(BlockingIOError):
                data = data[worker.socket.send(data) :]
            if data:
                worker.socket.settimeout(1.0)  # a worker that reads nothing for a second is replaced
                worker.socket.sendall(data)
                worker.socket.setblocking(False)
        except OSError:
            self._gone(worker)

    def _readable(self, worker: _Worker) -> None:
        try:
            data = worker.socket.recv(READ_BYTES)
            messages = worker.frames.feed(data)
        except BlockingIOError:
            return
        except (OSError, control.FrameError) as bad:
            _log.warning("worker %d: %s", worker.index, bad)
            data, messages = b"", []
        if not data:
            self._gone(worker)
            return
        for message in messages:
            if isinstance(message, control.Hello):
                worker.mapped, worker.sealed = True, message.sealed
                for certificate in self._trusted:
                    self._send(worker, control.Trust(certificate))
                if self._serving:
                    self._send(worker, control.Serve())
                elif self._listening:
                    self._send(worker, control.Listen())
                continue
            if isinstance(message, control.Listening):
                worker.listening = True
                continue
            if isinstance(message, control.Serving):
                worker.serving = True
                self._failures[worker.index] = 0
                self.on_change()
                continue
            task = asyncio.ensure_future(self._answer(worker, message))
            worker.tasks.add(task)
            task.add_done_callback(worker.tasks.discard)

    async def _answer(self, worker: _Worker, message: Any) -> None:
        assert self.handler is not None
        answer = await self.handler(message)
        if answer is not None and self._workers.get(worker.index) is worker:
            self._send(worker, answer)
