"""Servers that the benchmarks and the soak start, pin and talk to. Measures nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from openkcm.cli import endpoints as ends
from openkcm.kmip import KMIP_1_4, Attribute, decode_response, encode_request
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    ObjectType,
    ResultStatus,
)
from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest
from openkcm.kmip.payloads.objects import CreateRequest
from openkcm.kmip.payloads.retrieval import GetRequest
from openkcm.kmip.structures import CryptographicParameters

ROOT: Final = Path(__file__).resolve().parents[2]
SERVER_CORE, LOAD_CORE = 0, 1
BEST_NICE: Final = -20
MEASURED, AROUND = 20, 10  #: Real-time priorities: of server and load, and of what else they wait for.
DATA_BYTES: Final = 1024
REGION: Final = "eu-frankfurt"
GCM: Final = CryptographicParameters(
    block_cipher_mode=BlockCipherMode.GCM, cryptographic_algorithm=CryptographicAlgorithm.AES, tag_length=16
)
USAGE: Final = int(CryptographicUsageMask.ENCRYPT | CryptographicUsageMask.DECRYPT)


class Target:
    """A KMIP server and how to reach it."""

    def __init__(self, host: str, port: int, pid: int, workload: ends.Workload, tls: ssl.TLSVersion | None) -> None:
        self.host, self.port, self.pid, self.workload = host, port, pid, workload
        context = ssl.create_default_context(cafile=workload.ca)
        context.check_hostname = False
        context.load_cert_chain(workload.cert, workload.key)
        if tls is not None:
            context.maximum_version = tls
        self._tls = context.wrap_socket(socket.create_connection((host, port), timeout=10))

    def raw(self, request: bytes) -> bytes:
        """Send one message, return its answer."""
        self._tls.sendall(request)
        answer = b""
        while len(answer) < 8 or len(answer) < 8 + int.from_bytes(answer[4:8], "big"):
            part = self._tls.recv(1 << 16)
            if not part:
                raise SystemExit("the server hung up")
            answer += part
        return answer

    def call(self, *payloads: Any) -> list[Any]:
        """Return the answers' payloads; every item must succeed."""
        items = decode_response(self.raw(encode_request(*payloads, version=KMIP_1_4))).items
        for item in items:
            if item.status != ResultStatus.SUCCESS:
                raise SystemExit(f"{item.operation}: {item.reason} {item.message}")
        return [item.payload for item in items]

    def new_key(self) -> str:
        """Make and activate an AES-256 key."""
        (made,) = self.call(create())
        self.call(ActivateRequest(unique_identifier=made.unique_identifier))
        uid: str = made.unique_identifier
        return uid


def create() -> CreateRequest:
    """The request of an AES-256 key."""
    attributes = {
        "Cryptographic Algorithm": CryptographicAlgorithm.AES,
        "Cryptographic Length": 256,
        "Cryptographic Usage Mask": USAGE,
    }
    template = TemplateAttribute(
        attribute=tuple(Attribute(attribute_name=n, attribute_value=v) for n, v in attributes.items())
    )
    return CreateRequest(object_type=ObjectType.SYMMETRIC_KEY, template_attribute=template)


def payloads_of(target: Target) -> dict[str, Any]:
    """One request of each kind; Decrypt undoes what Encrypt did, and is compared with it."""
    uid, plain = target.new_key(), os.urandom(DATA_BYTES)
    encrypt = EncryptRequest(unique_identifier=uid, data=plain, cryptographic_parameters=GCM)
    (sealed,) = target.call(encrypt)
    decrypt = DecryptRequest(
        unique_identifier=uid,
        data=sealed.data,
        iv_counter_nonce=sealed.iv_counter_nonce,
        authenticated_encryption_tag=sealed.authenticated_encryption_tag,
        cryptographic_parameters=GCM,
    )
    (opened,) = target.call(decrypt)
    if opened.data != plain:
        raise SystemExit("what was encrypted does not decrypt")
    return {"encrypt": encrypt, "decrypt": decrypt, "get": GetRequest(unique_identifier=uid), "create": create()}


def prefer(pid: int, core: int, priority: int = 0) -> None:
    """Pin a process and give it the best share of its core that we may: what else runs here disturbs less.

    Args:
        priority: Above 0: real-time, which nothing ordinary interrupts. Needs root, as a good nice value does.
    """
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
        with contextlib.suppress(OSError):
            if priority:
                os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(priority))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, BEST_NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(BEST_NICE))  # nice counts only within a session's group


def scheduling(pid: int) -> str:
    """How the kernel schedules a process."""
    if os.sched_getscheduler(pid) == os.SCHED_FIFO:
        return f"SCHED_FIFO {os.sched_getparam(pid).sched_priority}"
    return f"nice {os.getpriority(os.PRIO_PROCESS, pid)}"


@contextlib.contextmanager
def stack(folder: Path, port_base: int, *, real_time: bool = False) -> Iterator[ends.Endpoints]:
    """The one-command stack with one worker a node, pinned."""
    flags = ["--state", str(folder), "--port-base", str(port_base), "--workers", "1"]
    subprocess.run([ROOT / "scripts" / "up", "--detach", *flags], check=True, stdout=sys.stderr)
    everybody: set[int] = set()
    try:
        found = ends.load(folder)
        up = json.loads((folder / "run" / "up.json").read_bytes())
        worker = found.node_of(REGION).worker_pids[0]
        everybody = {up["pid"], *(pid for pid, _ in up["children"].values())}
        everybody |= {pid for node in found.nodes for pid in (node.custodian_pid, *node.worker_pids)}
        for pid in everybody:
            core, priority = (SERVER_CORE, MEASURED) if pid == worker else (LOAD_CORE, AROUND)
            prefer(pid, core, priority if real_time else 0)
        yield found
    finally:
        # A real-time process that ends may wait, and spin, for an ordinary one on its core that never gets it.
        for pid in everybody:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
        subprocess.run([ROOT / "scripts" / "up", "--stop", "--state", folder], check=False, stdout=sys.stderr)


@contextlib.contextmanager
def pinned(*command: Any, port: int) -> Iterator[int]:
    """A server on the first core, from when it listens; yields its process id."""
    process = subprocess.Popen([sys.executable, "-P", *map(str, command)], start_new_session=True)
    prefer(process.pid, SERVER_CORE, MEASURED)
    try:
        until = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} does not listen")
            time.sleep(0.1)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # PyKMIP's server leaves children behind
        process.wait()
