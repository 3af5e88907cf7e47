"""What a node tells its operator over a UNIX socket of its own (0600): status, key versions, and how many workers.

One request a connection, a line of JSON each way. Shows names, versions, states, counts; never key material, nothing
sealed, no person. Who may speak: the node's own user and root, by the socket's mode and by SO_PEERCRED.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from openkcm.execution.clock import boottime_ns
from openkcm.execution.crew import Crew
from openkcm.execution.custodian import Custodian
from openkcm.execution.gates import Gates
from openkcm.execution.keychain import Keychain
from openkcm.execution.reporter import shown

__all__ = ["Admin", "Ask", "ask", "socket_of"]

REQUEST_BYTES: Final = 4096
ANSWER_BYTES: Final = 64 << 20
READ_S: Final = 5.0


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request. tenant: for inspect, only this one. count: for workers."""

    verb: Literal["status", "inspect", "workers"]
    tenant: str | None = None
    count: Annotated[int, Meta(ge=0, le=256)] = 0


def socket_of(database: str) -> Path:
    """Return where a node's socket lies: beside its database."""
    return Path(database).with_suffix(".sock")


def ask(path: Path, question: Ask) -> dict[str, Any]:
    """Ask a running node.

    Raises:
        OSError: Nobody listens there, or it is not for us.
        ValueError: It refuses; the message says why.
    """
    with _short(path) as address, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(READ_S)
        connection.connect(address)
        connection.sendall(msgspec.json.encode(question) + b"\n")
        connection.shutdown(socket.SHUT_WR)
        raw = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    answer: dict[str, Any] = msgspec.json.decode(raw or b"{}")
    if "error" in answer or not answer:
        raise ValueError(answer.get("error", "the node hung up: its socket is for its own user and root"))
    return answer


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Lend a name of less than 108 bytes for a socket, however deep it lies."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Admin:
    """The socket and its answers."""

    def __init__(
        self,
        path: Path,
        custodian: Custodian,
        gates: Gates,
        keychain: Keychain,
        crew: Crew,
        at_head: Callable[[], bool],
        expires: Callable[[], dict[str, int]],
    ) -> None:
        self._path, self._custodian, self._gates, self._keychain = path, custodian, gates, keychain
        self._crew, self._at_head, self._expires = crew, at_head, expires
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; what an earlier process left there is replaced."""
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        with _short(self._path) as address:
            listening.bind(address)
            self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=REQUEST_BYTES)

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError):
            credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", credentials)[1] in {0, os.geteuid()}:
                async with asyncio.timeout(READ_S):
                    writer.write(msgspec.json.encode(self._answer(await reader.readline())))
                    await writer.drain()
        writer.close()

    def _answer(self, raw: bytes) -> dict[str, Any]:
        try:
            question = msgspec.json.decode(raw, type=Ask)
            return {"status": self._status, "inspect": self._inspect, "workers": self._workers}[question.verb](question)
        except (msgspec.MsgspecError, ValueError) as bad:
            return {"error": str(bad)}

    def _workers(self, question: Ask) -> dict[str, Any]:
        self._crew.resize(question.count)
        return {"workers": question.count, "processes": self._crew.pids}

    def _status(self, _question: Ask) -> dict[str, Any]:
        state, now, arena = self._custodian.state, boottime_ns(), self._gates.arena
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return {
            "node": state.node,
            "region": state.region,
            "serving": self._at_head() and self._crew.serving,
            "ledger_epoch": state.epoch,
            "cursor": {"routine": state.cursor_routine, "critical": state.cursor_critical},
            "beat_age_s": None if state.beat is None else round((now - state.beat[1]) / 1e9, 1),
            "workers": self._crew.pids,
            "memory": {
                "mode": arena.mode,
                "sealed": self._crew.sealed,
                "limit_bytes": None if limit == resource.RLIM_INFINITY else limit,
                "key_slots": {"all": arena.slots, "free": arena.free},
                "evicted": self._keychain.warmth.evicted,
            },
            "certificate_days_left": {name: left // 86_400 for name, left in self._expires().items()},
            "alarms": dict(sorted(self._custodian.alarms.items())),
            "residences": [
                {
                    "tenant": tenant,
                    "state": shown(state, r, now),
                    "generation": max((m.floor for m in r.routine.values()), default=0),
                    "fence": max((m.floor for m in r.critical.values()), default=0),
                    "lease_s": r.lease_s,
                    "lease_left_s": max(0, state.lease_until(r) - now) // 1_000_000_000,
                    "root": None if r.root is None else f"{r.root.provider}:{r.root.ref}",
                    "root_version": self._keychain.root_version(tenant),
                    "root_says": r.root_refusal or ("ok" if self._keychain.is_open(tenant) else None),
                    "l2": self._keychain.version(tenant),
                    "cold": tenant in self._keychain.warmth.cold,
                    "slots": len(self._gates.slots(tenant)),
                    "failure": r.refusal or r.failure,
                }
                for tenant, r in sorted(state.residences.items())
            ],
        }

    def _inspect(self, question: Ask) -> dict[str, Any]:
        state = self._custodian.state
        if question.tenant is not None and question.tenant not in state.residences:
            raise ValueError(f"no residence of {question.tenant} here")
        names = [question.tenant] if question.tenant is not None else sorted(state.residences)
        return {"node": state.node, "residences": [self._keys_of(tenant) for tenant in names]}

    def _keys_of(self, tenant: str) -> dict[str, Any]:
        loaded, residence = self._keychain.loaded.get(tenant), self._custodian.state.residences[tenant]
        ring = None if loaded is None or loaded.ring is None else loaded.ring[1]
        if loaded is None or ring is None:
            return {"tenant": tenant, "keys": None}
        slots = self._gates.slots(tenant)
        return {
            "tenant": tenant,
            "l2": [
                {
                    "version": version,
                    "record": record.id,
                    "root": f"{record.root.provider}:{record.root.ref}",
                    "root_version": record.wrapped.root_version,
                    "unsealed": self._gates.cell(tenant, version) is not None,
                    "released_by": ring.released.get(f"L2/{version}", ()),
                }
                for version, (_, record) in sorted(loaded.l2.items())
            ],
            "l3": [
                {
                    "registration": registration,
                    "system": residence.systems.get(registration),
                    "version": version,
                    "record": record.id,
                    "under_l2": record.l2_version,
                    "retired": record.retired,
                    "gate": self._gate(slots.get((registration, version))),
                    "released_by": ring.released.get(f"L3/{registration}/{version}", ()),
                }
                for registration, versions in sorted(loaded.l3.items())
                for version, (_, record) in sorted(versions.items())
            ],
            "floors": residence.floors,
            "rotations_done": ring.rotations,
        }

    def _gate(self, slot: int | None) -> str | None:
        return None if slot is None else self._gates.arena.gate(slot).name.lower()
