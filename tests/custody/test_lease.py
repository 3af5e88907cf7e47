"""The lease under SIGSTOP and clocks that jump: judged at the end of each operation, by a clock that nobody sets."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from execution.custodian_double import CustodianDouble
from execution.kmip_client import Failed
from openkcm.execution.clock import BOOT_ID, boottime_ns
from openkcm.execution.residence_state import Residence, State

SECOND = 10**9


@pytest.fixture
async def custodian(tmp_path):
    async with CustodianDouble(tmp_path) as double:
        double.slot = double.system("acme", "pay")
        yield double


async def test_a_worker_stopped_over_the_end_of_the_lease_answers_nothing_when_it_goes_on(custodian):
    client = await custodian.client(custodian.enrol("acme", "pay", "app"))
    uid = await client.new_key()
    (pid,) = custodian.crew.pids
    custodian.arena.set_lease(custodian.slot, boottime_ns() + SECOND)
    await client.encrypt(uid, b"inside the lease")
    os.kill(pid, signal.SIGSTOP)
    try:
        asked = asyncio.ensure_future(client.encrypt(uid, b"it was asked inside the lease"))
        await asyncio.sleep(1.2)
    finally:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(Failed, match="not available"):
        await asked
    custodian.arena.set_lease(custodian.slot, boottime_ns() + 60 * SECOND)
    await client.encrypt(uid, b"renewed")
    await client.close()


async def test_a_custodian_that_stands_still_is_not_believed_to_be_alive(custodian):
    client = await custodian.client(custodian.enrol("acme", "pay", "app"))
    uid = await client.new_key()
    custodian.arena.set_alive(boottime_ns() - 1)
    with pytest.raises(Failed, match="not available"):
        await client.encrypt(uid, b"x")
    custodian.arena.set_alive(boottime_ns() + 60 * SECOND)
    await client.encrypt(uid, b"x")
    await client.close()


def test_the_clock_of_decisions_is_one_that_no_administrator_sets():
    with pytest.raises(OSError, match="Invalid argument"):
        time.clock_settime_ns(time.CLOCK_BOOTTIME, 0)
    before, now = time.clock_gettime_ns(time.CLOCK_BOOTTIME), boottime_ns()
    assert 0 <= now - before < SECOND


SHIFTED = """
import sys
from openkcm.execution.clock import BOOT_ID, boottime_ns
print(BOOT_ID, boottime_ns())
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="makes a time namespace, as root")
def test_a_shifted_clock_is_another_boot_so_that_a_stored_lease_gains_nothing_by_it():
    def told(*shift: str) -> tuple[str, int]:
        command = [*(("unshare", "--fork", "--time", *shift) if shift else ()), sys.executable, "-c", SHIFTED]
        boot, now = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return boot, int(now)

    assert told("--boottime", "0")[0] == told()[0] == BOOT_ID
    for offset in (-3600, 3600):
        boot, now = told("--boottime", str(offset))
        assert abs(now - boottime_ns() - offset * SECOND) < 600 * SECOND  # the clock is another one
        assert boot == f"{BOOT_ID}{offset:+d}.0"
    kept = Residence(tenant="acme")
    here = State(node="n", region="r", boot_id=BOOT_ID, trust_root=bytes(32), beat=(BOOT_ID, boottime_ns()))
    assert here.lease_until(kept) > boottime_ns()
    assert msgspec.structs.replace(here, boot_id=f"{BOOT_ID}-3600.0").lease_until(kept) == 0
