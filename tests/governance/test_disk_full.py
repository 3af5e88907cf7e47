"""The ledger's disk is full, or gone: writers are told so, nothing is half-done, a revocation waits and is not forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from governance_ledger import TRUST
from governance_stack import Idp, Stack, issuer, running_cmk
from openkcm.audit.examine import examine
from openkcm.bus.beat import subscribe_beats
from openkcm.bus.messages import Stored
from openkcm.cli import orbital as servers
from openkcm.contract import envelope as env
from openkcm.contract import reports
from orbital_fixture import EU, Orbital, run_apart, shipped_regions

STORE_BYTES = 24 << 20


def mount(where: Path) -> bool:
    """A file system of its own, so small that it fills up."""
    where.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(where)]
    return (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Orbital]:
    regions = shipped_regions()
    orbital = Orbital(tmp_path / "orbital", regions)
    servers.lay_out(orbital.state_dir, regions, orbital.ports)
    # The ledger's account alone: a mirror that cannot be written makes nats-server end all of its JetStream.
    store = orbital.state_dir / "nats" / servers.HUB / "store" / "jetstream" / "LEDGER"
    if os.geteuid() != 0 or not mount(store):
        pytest.skip("mounting a small file system takes root")
    orbital.store = store  # type: ignore[attr-defined]
    try:
        for name in orbital.ports:
            orbital.start(name)
        run_apart(servers.apply_streams(orbital.state_dir, regions, orbital.ports))
        yield orbital
    finally:
        orbital.stop()
        subprocess.run(["umount", str(store)], check=True)


@pytest.fixture
def idp() -> Iterator[Idp]:
    with issuer() as one:
        yield one


@contextlib.asynccontextmanager
async def cmk(small: Orbital, idp: Idp, home: Path, **more: Any) -> AsyncIterator[Stack]:
    async with running_cmk(small, idp, home, check_streams=False, **more) as stack:
        yield stack


def fill(store: Path) -> Path:
    """Take every byte that is left."""
    ballast = store / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"\0"):
            pass
    return ballast


def problem(answer, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == code


async def left_out(stack: Stack) -> tuple[str, ...]:
    """Whom the next beat leaves out."""
    beats: asyncio.Queue[reports.Beat] = asyncio.Queue()

    async def hear(stored: Stored) -> None:
        e = env.decode(stored.body)
        beats.put_nowait(reports.read_beat(e.tag, e.data))

    async with stack.node() as node:
        end = await subscribe_beats(node.connection, EU, hear)
        beat = None
        while beat is None:  # as a node does; the test's time is the limit
            await node.live(secrets.token_hex(16))
            with contextlib.suppress(TimeoutError):
                beat = await asyncio.wait_for(beats.get(), 1)
        await end()
    return beat.withheld if isinstance(beat, reports.Withholding) else ()


async def test_a_full_disk_is_503_for_writers_and_a_wait_for_a_revocation(
    small: Orbital, idp: Idp, tmp_path: Path
) -> None:
    home = tmp_path / "cmk"
    async with cmk(small, idp, home) as stack:
        tenant = await stack.tenant()
        admin, path = f"{tenant}-admin", f"/tenants/{tenant}"
        before = await stack.last()
        ballast = fill(small.store)  # type: ignore[attr-defined]

        async def full() -> bool:
            answer = await stack.ask(admin, "POST", f"{path}/regions/{EU}/systems", {"system": "late"}, key="late")
            return answer.status_code == 503

        # A block that is open has room for a few more; the server says so once it has none.
        for n in range(200):
            answer = await stack.ask(admin, "POST", f"{path}/regions/{EU}/systems", {"system": f"s{n}"}, key=f"s{n}")
            if answer.status_code != 202:
                break
        problem(answer, 503, "ledger-unavailable")
        assert answer.headers["retry-after"]
        assert await full()
        pulled = await stack.must(admin, "POST", f"{path}/revocations", {"reason": "stolen"}, key="pull")
        (one,) = pulled["revocations"]
        assert (one["recorded"], one["fence"]) == ("spool", None)
        shown = (await stack.must("operator-1", "GET", "/fleet"))["spooled_revocations"]
        assert shown == 1
        again = await stack.must(admin, "POST", f"{path}/revocations", {"reason": "stolen"}, key="pull")
        assert again["revocations"][0]["event"] == one["event"]
        shown = (await stack.must(admin, "GET", f"{path}/regions/{EU}/sync"))["critical"]
        assert (shown["status"], shown["counter"]) == ("Revoking", 0)
        assert shown["certain_by"] is None  # another CMK that knows nothing of it may lengthen leases
        assert await left_out(stack) == (tenant,)
        read_to = stack.cmk.projection.cursor
        assert read_to >= before
    async with cmk(small, idp, home, alone=True) as stack:  # it starts with the spool that it left
        assert await left_out(stack) == (tenant,)
        shown = (await stack.must(admin, "GET", f"{path}/regions/{EU}/sync"))["critical"]
        assert (shown["status"], shown["certain_by"] is not None) == ("Revoking", True)
    # The hub dies of it, and the CMK is restarted with an empty hand: what was promised is on its own disk.
    small.kill(servers.HUB)
    ballast.unlink()
    small.start(servers.HUB)
    async with cmk(small, idp, home) as stack:

        async def arrived() -> bool:
            return (await stack.must(admin, "GET", f"{path}/regions/{EU}"))["state"] == "Revoked"

        await stack.until(arrived, 20)
        assert (await stack.must("operator-1", "GET", "/fleet"))["spooled_revocations"] == 0
        assert await left_out(stack) == ()
        stored = [s async for s in stack.cmk.ledger.read_all()]
        assert [s.id for s in stored].count(one["event"]) == 1
        # Nothing half-done: what is there is whole, once, and without a gap.
        assert examine(stored, TRUST.public_key).events == len(stored)


async def test_an_unreadable_store_refuses_writers_and_keeps_the_revocation(
    small: Orbital, idp: Idp, tmp_path: Path
) -> None:
    async with cmk(small, idp, tmp_path / "cmk") as stack:
        tenant = await stack.tenant()
        admin, path = f"{tenant}-admin", f"/tenants/{tenant}"
        small.kill(servers.HUB)
        answer = await stack.ask(admin, "POST", f"{path}/regions/{EU}/systems", {"system": "late"})
        problem(answer, 503, "ledger-unavailable")
        pulled = await stack.must(admin, "POST", f"{path}/revocations", {"reason": "stolen"})
        assert pulled["revocations"][0]["recorded"] == "spool"
        small.start(servers.HUB)

        async def arrived() -> bool:
            return (await stack.ask(admin, "GET", f"{path}/regions/{EU}")).json().get("state") == "Revoked"

        await stack.until(arrived, 20)
