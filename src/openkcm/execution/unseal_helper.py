"""The processes that ask customers' roots: a zygote that forks one child per call, and a prober that stays.

`python -m openkcm.execution.unseal_helper zygote|prober <fd> <parent pid> <providers>`, started by `unseal_process`.
The zygote is exec'd before any key exists and holds no credential; it imports the SDKs, so that a child needs only
milliseconds. A child does one call, writes 32 bytes into a pipe, and ends: what the SDK kept of them ends with it. A
child has one thread and the zygote too, which is what makes forking sound here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import select
import signal
import socket
import sys
import threading
from typing import Final

import msgspec

from openkcm.execution import roots
from openkcm.execution.roots.base import KEK_BYTES, Canary, Root, RootError, Wrapped, make_canary
from openkcm.execution.secretmem import die_with_parent, harden_process
from openkcm.execution.unseal_process import MAX_MESSAGE_BYTES, Answer, Forked, Observed, Request, Unwatch, Watch

__all__ = ["answer", "main"]

_REQUEST: Final = msgspec.msgpack.Decoder(Request)
_ORDER: Final = msgspec.msgpack.Decoder(Watch | Unwatch)
PROBE_JITTER: Final = 0.1  # nodes that started together do not probe together for ever


def main(arguments: list[str]) -> None:
    """Run as zygote or prober until the custodian closes its end of the socket, or dies."""
    what, fd, parent, providers = arguments
    die_with_parent(int(parent))
    harden_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the custodian ends us in order
    for provider in filter(None, providers.split(",")):
        _preload(provider)
    control = socket.socket(fileno=int(fd))
    control.setblocking(True)
    with contextlib.suppress(ConnectionError):  # the custodian is gone, and so are we
        {"zygote": _zygote, "prober": _prober}[what](control)


def _preload(provider: str) -> None:
    backend = roots.BACKENDS.get(provider)
    if backend is None:
        return
    with contextlib.suppress(ImportError):  # an SDK that is not installed is told to whoever asks for it
        warm = getattr(importlib.import_module(backend), "warm", None)
        if warm is not None:
            warm()


# --- one call ---------------------------------------------------------------------------------------------------------


def _zygote(control: socket.socket) -> None:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    children: dict[int, int] = {}  # pidfd -> pid
    control.send(msgspec.msgpack.encode(Forked(n=0, pid=os.getpid())))
    while True:
        for fd, _ in poller.poll():
            if fd in children:
                os.waitpid(children.pop(fd), 0)
                poller.unregister(fd)
                os.close(fd)
                continue
            raw, pipes, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
            if not raw:
                return  # children die with us (PDEATHSIG)
            request = _REQUEST.decode(raw)
            zygote = os.getpid()
            pid = os.fork()
            if not pid:
                control.close()
                for other in children:
                    os.close(other)
                _child(zygote, request, *pipes)
            for pipe in pipes:
                os.close(pipe)
            pidfd = os.pidfd_open(pid)  # the child cannot be reaped, nor its number given away, before we wait for it
            children[pidfd] = pid
            poller.register(pidfd, select.POLLIN)
            said = msgspec.msgpack.encode(Forked(n=request.n, pid=pid))
            socket.send_fds(control, [said], [pidfd])


def _child(zygote: int, request: Request, key_pipe: int, answer_pipe: int) -> None:
    status = 1
    try:
        die_with_parent(zygote)
        harden_process()  # exec and fork keep neither for us to rely on
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
        return _OPERATIONS[request.op](roots.open_root(request.root, request.settings), request)
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


# --- the watch --------------------------------------------------------------------------------------------------------


def _prober(control: socket.socket) -> None:
    watches: dict[int, threading.Event] = {}
    while raw := control.recv(MAX_MESSAGE_BYTES):
        order = _ORDER.decode(raw)
        stop = watches.pop(order.n, None)
        if stop is not None:
            stop.set()
        if isinstance(order, Watch):
            watches[order.n] = stop = threading.Event()
            # One thread a root: a slow one delays no other. No key ever comes here, only canaries.
            threading.Thread(target=_watch, args=(control, order, stop), daemon=True).start()
    os._exit(0)  # threads may be inside an SDK


def _watch(control: socket.socket, order: Watch, stop: threading.Event) -> None:
    root: Root | None = None
    while True:
        try:
            root = root or roots.open_root(order.root, order.settings)
            info = root.probe(order.canary, order.context)
            seen = Observed(n=order.n, code="ok", root_version=info.version)
        except RootError as no:
            seen = Observed(n=order.n, code=no.code, detail=no.detail)
            if no.code in {"CredentialRejected", "Misconfigured"}:
                root = None  # a session that ran out, a file that came late: start from the settings again
        except ImportError as missing:
            seen = Observed(n=order.n, code="Misconfigured", detail=f"{order.root.provider!r}: {missing.msg}")
        except Exception as bug:  # an SDK's own: the watch goes on
            seen, root = Observed(n=order.n, code="Misconfigured", detail=type(bug).__name__), None
        if stop.is_set():
            return
        try:
            control.send(msgspec.msgpack.encode(seen))
        except OSError:
            os._exit(0)
        jitter = random.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER)  # noqa: S311 -- spreads load, guards nothing
        if stop.wait(order.interval_s * jitter):
            return


if __name__ == "__main__":
    main(sys.argv[1:])
