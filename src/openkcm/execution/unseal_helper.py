"""The processes that ask customers' roots: a zygote that makes one process per call, and a prober that stays.

`python -m openkcm.execution.unseal_helper zygote|prober <fd> <parent pid> <providers>`, started by `unseal_process`.
The zygote is exec'd before any key exists and holds no credential; it imports the SDKs, so that a child needs only
milliseconds. A child does one call, writes 32 bytes into a pipe, and ends: what the SDK kept of them ends with it. A
child has one thread and the zygote too, which is what makes forking sound here.

gRPC and a vendor's PKCS#11 library are not to be forked: for these the zygote keeps spares, processes of the same
program that were exec'd, have done their imports and wait for their one call.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
from typing import Final, NoReturn

import msgspec

from openkcm.execution import roots
from openkcm.execution.roots.base import KEK_BYTES, TENANT, Canary, Root, RootError, Wrapped, make_canary
from openkcm.execution.secretmem import die_with_parent, harden_process
from openkcm.execution.unseal_process import MAX_MESSAGE_BYTES, Answer, Forked, Request
from openkcm.execution.unseal_watch import watch_roots

__all__ = ["answer", "main"]

_REQUEST: Final = msgspec.msgpack.Decoder(Request)
SPAWNED: Final = frozenset({"gcp", "pkcs11"})
SPARES: Final = 2  # of each spawned provider: one call's import time is hidden behind another call


def main(arguments: list[str]) -> None:
    """Run as zygote or prober until the custodian closes its end of the socket, or dies."""
    what, fd, parent, providers = arguments
    die_with_parent(int(parent))
    harden_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the custodian ends us in order
    asked = [provider for provider in providers.split(",") if provider in roots.BACKENDS]
    for provider in asked:
        if what != "zygote" or provider not in SPAWNED:
            _preload(provider)
    control = socket.socket(fileno=int(fd))
    control.setblocking(True)
    with contextlib.suppress(ConnectionError):  # the custodian is gone, and so are we
        if what == "zygote":
            _zygote(control, SPAWNED.intersection(asked))
        elif what == "spare":
            _spare(control)
        else:
            watch_roots(control)


def _preload(provider: str) -> None:
    with contextlib.suppress(ImportError):  # an SDK that is not installed is told to whoever asks for it
        warm = getattr(importlib.import_module(roots.BACKENDS[provider]), "warm", None)
        if warm is not None:
            warm()


# --- one call ---------------------------------------------------------------------------------------------------------


class _Children:
    """The zygote's processes. Each is waited for, so that no number is given away while somebody is told of it."""

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._pids: dict[int, int] = {}  # pidfd -> pid

    def add(self, pid: int) -> int:
        pidfd = os.pidfd_open(pid)
        self._pids[pidfd] = pid
        self._poller.register(pidfd, select.POLLIN)
        return pid

    def reap(self, pidfd: int) -> None:
        os.waitpid(self._pids.pop(pidfd), 0)
        self._poller.unregister(pidfd)
        os.close(pidfd)

    def close(self) -> None:
        """Forget them: in a child that was forked."""
        for pidfd in self._pids:
            os.close(pidfd)


class _Spares:
    """Processes that were exec'd, some of each spawned provider, and wait for their one call."""

    def __init__(self, providers: frozenset[str], children: _Children) -> None:
        self._children = children
        self._waiting: dict[str, list[tuple[int, socket.socket]]] = {provider: [] for provider in providers}

    def __contains__(self, provider: str) -> bool:
        return provider in self._waiting

    def fill(self) -> None:
        """Start what is missing. They import while the zygote does other things."""
        for provider, waiting in self._waiting.items():
            while len(waiting) < SPARES:
                waiting.append(self._start(provider))

    def take(self, provider: str, raw: bytes, pipes: list[int]) -> int:
        """Give one spare its call; return its pid."""
        while True:
            waiting = self._waiting[provider]
            pid, control = waiting.pop(0) if waiting else self._start(provider)
            with control, contextlib.suppress(ConnectionError):  # it died while it waited: another one
                socket.send_fds(control, [raw], pipes)
                return pid

    def close(self) -> None:
        """Forget them: in a child that was forked."""
        for waiting in self._waiting.values():
            for _, control in waiting:
                control.close()

    def _start(self, provider: str) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            program = [sys.executable, "-P", "-m", "openkcm.execution.unseal_helper", "spare", str(theirs.fileno()),
                       str(os.getpid()), provider]  # fmt: skip
            return self._children.add(os.posix_spawn(sys.executable, program, os.environ)), ours


def _zygote(control: socket.socket, providers: frozenset[str]) -> None:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    children = _Children(poller)
    spares = _Spares(providers, children)
    spares.fill()
    control.send(msgspec.msgpack.encode(Forked(n=0, pid=os.getpid())))
    while True:
        for fd, _ in poller.poll():
            if fd != control.fileno():
                children.reap(fd)
                continue
            raw, pipes, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
            if not raw:
                return  # children die with us (PDEATHSIG)
            for pipe in pipes:
                os.set_inheritable(pipe, False)  # a spare started now must not hold another call's pipes open
            request = _REQUEST.decode(raw)
            zygote = os.getpid()
            if request.root.provider in spares:
                pid = spares.take(request.root.provider, raw, pipes)
            elif pid := os.fork():
                children.add(pid)
            else:
                control.close()
                children.close()
                spares.close()
                _work(request, *pipes, forked_from=zygote)
            for pipe in pipes:
                os.close(pipe)
            pidfd = os.pidfd_open(pid)
            socket.send_fds(control, [msgspec.msgpack.encode(Forked(n=request.n, pid=pid))], [pidfd])
            os.close(pidfd)
        spares.fill()


def _spare(control: socket.socket) -> None:
    raw, pipes, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
    if raw:
        _work(_REQUEST.decode(raw), *pipes)


def _work(request: Request, key_pipe: int, answer_pipe: int, *, forked_from: int | None = None) -> NoReturn:
    status = 1
    try:
        if forked_from is not None:  # fork keeps neither for us to rely on
            die_with_parent(forked_from)
            harden_process()
        said, key = answer(request)
        if key is not None:
            os.write(key_pipe, key)  # 32 bytes: one atomic write
        os.close(key_pipe)
        raw = msgspec.msgpack.encode(said)
        while raw:
            raw = raw[os.write(answer_pipe, raw) :]
        status = 0
    finally:
        os._exit(status)  # whatever happened: no handler, buffer or exit hook of the zygote's runs here


def answer(request: Request) -> tuple[Answer, bytes | None]:
    """Do one request; return what to say, and the key to hand over, if any."""
    try:
        root = roots.open_root(request.root, request.settings, request.context.get(TENANT))
        return _OPERATIONS[request.op](root, request)
    except RootError as no:
        return Answer(code=no.code, detail=no.detail), None
    except ImportError as missing:
        return Answer(code="Misconfigured", detail=f"the SDK of {request.root.provider!r}: {missing.msg}"), None
    except Exception as bug:  # an SDK's own; a traceback could hold a key
        return Answer(code="Misconfigured", detail=f"{type(bug).__name__} in the root {request.root.provider!r}"), None


def _wrap(root: Root, request: Request) -> tuple[Answer, bytes]:
    kek = os.urandom(KEK_BYTES)
    return Answer(code="ok", wrapped=_with_canary(root, kek, request.context)), kek


def _unwrap(root: Root, request: Request) -> tuple[Answer, bytes]:
    return Answer(code="ok"), _unwrapped(root, request)


def _rewrap(root: Root, request: Request) -> tuple[Answer, None]:
    return Answer(code="ok", wrapped=_with_canary(root, _unwrapped(root, request), request.context)), None


_OPERATIONS: Final = {"wrap": _wrap, "unwrap": _unwrap, "rewrap": _rewrap}


def _unwrapped(root: Root, request: Request) -> bytes:
    if request.wrapped is None:
        raise RootError("Misconfigured", f"nothing to {request.op}")
    return root.unwrap(request.wrapped.ciphertext, request.wrapped.root_version, request.context)


def _with_canary(root: Root, kek: bytes, context: dict[str, str]) -> Wrapped:
    canary: Canary = make_canary(root, os.urandom(KEK_BYTES), context)
    return msgspec.structs.replace(root.wrap(kek, context), canary=canary)


if __name__ == "__main__":
    main(sys.argv[1:])
