"""Constant KMIP load in a process of its own: encrypts and decrypts at a steady rate and records every operation.

`python -m openkcm.cli.load` reads one JSON document (`Task`) from standard input, writes `ready` and runs until
standard input ends; then it writes its records. Times are CLOCK_BOOTTIME in ns, as the nodes count, so that a record
can be compared with the closing of a gate on the same machine.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import Any, Final, Self

import msgspec

from openkcm.cli.endpoints import Kmip, Workload
from openkcm.kmip import (
    HEADER_BYTES,
    KMIP_1_4,
    MAX_MESSAGE_BYTES,
    Attribute,
    KmipError,
    decode_response,
    encode_request,
    message_length,
)
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    ObjectType,
    ResultStatus,
)
from openkcm.kmip.framing import RESPONSE
from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest
from openkcm.kmip.payloads.objects import CreateRequest
from openkcm.kmip.schema import Structure
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["Load", "Record", "Task", "make_key"]

GCM: Final = CryptographicParameters(
    block_cipher_mode=BlockCipherMode.GCM,
    cryptographic_algorithm=CryptographicAlgorithm.AES,
    random_iv=True,
    tag_length=16,
)
TIMEOUT_S: Final = 5.0
RECONNECT_S: Final = 0.05
PLAINTEXT_BYTES: Final = 256


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: encrypt and decrypt under `uid`, `rate` operations a second over `connections` connections."""

    kmip: Kmip
    workload: Workload
    uid: str
    connections: int = 2
    rate: int = 200
    patience_s: float = TIMEOUT_S


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One operation. `outcome`: `served`, `refused` (the server said no), `lost` (no answer), `wrong` (a bad one)."""

    sent_ns: int
    answered_ns: int
    outcome: str
    detail: str


class Load:
    """A running load process, from the outside."""

    def __init__(self, task: Task) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "openkcm.cli.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the load could not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def end(self) -> list[Record]:
        """Stop it and return its records in the order of their start."""
        out, _ = self._process.communicate()
        return sorted(msgspec.json.decode(out, type=list[Record]), key=lambda record: record.sent_ns)


def make_key(kmip: Kmip, workload: Workload) -> str | None:
    """Create and activate an AES-256 key at a node; return its identifier, None when the node does not (yet) serve."""
    uses = CryptographicUsageMask.ENCRYPT | CryptographicUsageMask.DECRYPT
    attributes = (
        Attribute(attribute_name="Cryptographic Algorithm", attribute_value=CryptographicAlgorithm.AES),
        Attribute(attribute_name="Cryptographic Length", attribute_value=256),
        Attribute(attribute_name="Cryptographic Usage Mask", attribute_value=int(uses)),
    )
    create = CreateRequest(
        object_type=ObjectType.SYMMETRIC_KEY, template_attribute=TemplateAttribute(attribute=attributes)
    )
    try:
        connection = _Connection(kmip, workload)
        try:
            made = connection.ask(create)
            if made.status != ResultStatus.SUCCESS:
                return None
            uid: str = made.payload.unique_identifier
            active = connection.ask(ActivateRequest(unique_identifier=uid))
            return uid if active.status == ResultStatus.SUCCESS else None
        finally:
            connection.close()
    except (OSError, KmipError):
        return None


# --- inside the process ---------------------------------------------------------------------------------------------


class _Connection:
    """One TLS connection that speaks KMIP 1.4."""

    def __init__(self, kmip: Kmip, workload: Workload, patience_s: float = TIMEOUT_S) -> None:
        context = ssl.create_default_context(cafile=workload.ca)
        context.load_cert_chain(workload.cert, workload.key)
        raw = socket.create_connection((kmip.host, kmip.port), timeout=patience_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = context.wrap_socket(raw, server_hostname=kmip.host)

    def ask(self, payload: Structure) -> Any:
        self._tls.sendall(encode_request(payload, version=KMIP_1_4))
        head = self._read(HEADER_BYTES)
        size = message_length(head, limit=MAX_MESSAGE_BYTES, expected=RESPONSE)
        if size is None:
            raise ConnectionError("an answer without a header")
        return decode_response(head + self._read(size - HEADER_BYTES)).items[0]

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            chunk = self._tls.recv(count - len(found))
            if not chunk:
                raise ConnectionError("the server hung up")
            found += chunk
        return found

    @property
    def ended(self) -> bool:
        """Whether the server has ended the connection: nothing else comes unasked."""
        return bool(select.select([self._tls], [], [], 0)[0])

    def close(self) -> None:
        self._tls.close()


class _Worker(threading.Thread):
    def __init__(self, task: Task, index: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._task, self._index, self._over = task, index, over
        self.records: list[Record] = []

    def run(self) -> None:
        pause_s = self._task.connections / self._task.rate
        due = time.monotonic() + pause_s * self._index / self._task.connections
        connection: _Connection | None = None
        sealed: tuple[bytes, Any] | None = None
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + pause_s, time.monotonic() - 1)  # a steady rate, but no burst after a long silence
            sent = _now()
            try:
                if connection is not None and connection.ended:  # nothing of ours is on its way: a new one, and no loss
                    connection.close()
                    connection = None
                connection = connection or _Connection(self._task.kmip, self._task.workload, self._task.patience_s)
                plain = os.urandom(PLAINTEXT_BYTES) if sealed is None else sealed[0]
                item = connection.ask(self._request(plain, None if sealed is None else sealed[1]))
            except (OSError, KmipError) as bad:
                self.records.append(Record(sent, _now(), "lost", f"{type(bad).__name__}: {bad}"))
                if connection is not None:
                    connection.close()
                connection = None
                self._over.wait(RECONNECT_S)
                continue
            answered = _now()
            if item.status != ResultStatus.SUCCESS:
                self.records.append(Record(sent, answered, "refused", str(item.message)))
                continue  # what was encrypted stays, to be decrypted once access is restored
            good = sealed is None or item.payload.data == plain
            self.records.append(Record(sent, answered, "served" if good else "wrong", ""))
            sealed = (plain, item.payload) if sealed is None else None
        if connection is not None:
            connection.close()

    def _request(self, plain: bytes, sealed: Any) -> EncryptRequest | DecryptRequest:
        if sealed is None:
            return EncryptRequest(unique_identifier=self._task.uid, cryptographic_parameters=GCM, data=plain)
        return DecryptRequest(
            unique_identifier=self._task.uid,
            cryptographic_parameters=GCM,
            data=sealed.data,
            iv_counter_nonce=sealed.iv_counter_nonce,
            authenticated_encryption_tag=sealed.authenticated_encryption_tag,
        )


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _run() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    over = threading.Event()
    workers = [_Worker(task, index, over) for index in range(task.connections)]
    for worker in workers:
        worker.start()
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()
    over.set()
    for worker in workers:
        worker.join(2 * task.patience_s)
    sys.stdout.buffer.write(msgspec.json.encode([record for worker in workers for record in worker.records]))


if __name__ == "__main__":
    _run()
