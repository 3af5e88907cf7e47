"""How the processes that ask a customer's root are started, and what is said to them. Asks no root itself.

They are exec'd, so they hold nothing of the custodian's; their environment is an allow-list, so that no proxy, endpoint
or credential reaches an SDK by the way.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from openkcm.contract.decrees import RootReference
from openkcm.execution.roots.base import Canary, RootSettings, Wrapped

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Answer",
    "Forked",
    "Observed",
    "Request",
    "Unwatch",
    "Watch",
    "clean_environment",
    "decode_answer",
    "spawn",
]

MAX_MESSAGE_BYTES: Final = 128 << 10
_ENVIRONMENT: Final = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "LD_BIND_NOW", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "SSL_CERT_FILE",
     "SSL_CERT_DIR", "TMPDIR"}
)  # fmt: skip

Operation = Literal["wrap", "unwrap", "rewrap"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Custodian to zygote, with two pipes: one for 32 bytes of key, one for the answer."""

    n: int
    op: Operation
    root: RootReference
    settings: RootSettings
    context: dict[str, str]
    wrapped: Wrapped | None = None


class Forked(msgspec.Struct, frozen=True, kw_only=True):
    """Zygote to custodian, with a pidfd: this process does request `n`. Number 0, without one: the imports are done."""

    n: int
    pid: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Helper to custodian. The key, if there is one, goes through the other pipe and never through this one."""

    code: str
    detail: str = ""
    wrapped: Wrapped | None = None


class Watch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Custodian to prober: unwrap this canary every `interval_s`, from now on."""

    n: int
    root: RootReference
    settings: RootSettings
    context: dict[str, str]
    canary: Canary
    interval_s: float


class Unwatch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Custodian to prober: no more."""

    n: int


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Prober to custodian: what the root said to watch `n`."""

    n: int
    code: str
    detail: str = ""
    root_version: str | None = None


def clean_environment() -> None:
    """Drop from this process's environment what a helper would not get: proxies, endpoints, credentials."""
    for name in os.environ.keys() - _ENVIRONMENT:
        del os.environ[name]


def decode_answer(raw: bytes) -> Answer:
    """Return a helper's answer; one that is none is the answer of a helper that died."""
    try:
        return msgspec.msgpack.decode(raw, type=Answer)
    except msgspec.MsgspecError:
        return Answer(code="Unreachable", detail=f"the unsealing process ended after {len(raw)} bytes of answer")


def spawn(what: Literal["zygote", "prober"], providers: Iterable[str]) -> tuple[subprocess.Popen[Any], socket.socket]:
    """Start a helper process and return it with our end of its control socket (one message a packet).

    Raises:
        RuntimeError: Not called by the main thread: the helper dies with the *thread* that started it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("unsealing processes are started by the main thread: they die with the thread that did")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "openkcm.execution.unseal_helper", what, str(theirs.fileno()),
             str(os.getpid()), ",".join(providers)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name in _ENVIRONMENT},
        )  # fmt: skip
    ours.setblocking(False)
    return child, ours
