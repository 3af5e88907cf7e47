"""A ledger on a real nats-server's disk, whose files are then damaged while it is down. For tests of what an audit sees."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from loopback import free_ports
from openkcm.cli import orbital

STREAM = "LEDGER"
MAX_BYTES = 16_000_000
Stored = tuple[int, str, bytes, str]


@contextlib.contextmanager
def serving(store: Path) -> Iterator[str]:
    """A bare server on this store, on loopback; yields its address."""
    (port,) = free_ports(1)
    command = [orbital._binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(store)]
    with (store.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def _silent(_: Exception) -> None:
    """It is asked again until it is there."""


async def connected(url: str):
    for _ in range(200):
        with contextlib.suppress(OSError, NatsError):
            return await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=_silent)
        await asyncio.sleep(0.05)
    raise RuntimeError("the server did not come up")


async def fill(url: str, entries: list[Stored]) -> None:
    """Store entries. The stream's limit, which they never reach, makes its blocks small: a quarter of it."""
    client = await connected(url)
    try:
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=["kcm.decree.>"], max_bytes=MAX_BYTES, discard="new")
        for _, subject, body, id_ in entries:
            await stream.publish(subject, body, headers={"Nats-Msg-Id": id_})
    finally:
        await client.close()


async def read(url: str) -> list[Stored] | None:
    """Everything the server still hands out, by sequence; None when it has no such stream any more."""
    client = await connected(url)
    try:
        stream = client.jetstream()
        try:
            info = (await stream.stream_info(STREAM)).state
        except JetStreamError:
            return None
        found = []
        for sequence in range(1, info.last_seq + 1):
            try:
                message = await stream.get_msg(STREAM, sequence, direct=False)
            except (JetStreamError, NatsError):
                continue
            id_ = (message.headers or {}).get("Nats-Msg-Id", "")
            found.append((sequence, message.subject or "", message.data or b"", id_))
        return found
    finally:
        await client.close()


def blocks(store: Path) -> list[Path]:
    """The message blocks, oldest first."""
    return sorted(store.rglob("*.blk"), key=lambda p: int(p.stem))


def copy(store: Path, target: Path) -> Path:
    shutil.copytree(store, target)
    return target
