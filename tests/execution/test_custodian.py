"""The order of the kill switch, seen from outside the custodian: gate first, disk and fence next, the ack last."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.execution.custodian import Custodian
from openkcm.execution.inputs import Arrived
from openkcm.execution.residence_state import State
from press import Press

NODE = ("eu-frankfurt-1", "eu-frankfurt")


class Recorder:
    """Plays gates, keys, disk and mouth of a node, and writes down who was called when."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.disk_full = self.vault_gone = False
        self.writers = self.most_writers = 0
        self.vault_s = 0.0
        self.hold = asyncio.Event()
        self.hold.set()

    def close(self, tenant, state):
        self.log.append(f"close {tenant} {state}")

    def cut(self, tenant, enrolments):
        self.log.append(f"cut {tenant} {','.join(enrolments)}")

    def withdraw(self, tenant, floors):
        self.log.append(f"withdraw {tenant} {floors}")

    def set_lease(self, tenant, until):
        pass

    async def provision(self, tenant):
        await self.hold.wait()
        self.log.append(f"provision {tenant}")
        return None, ()

    async def write_fence(self, tenant):
        if self.vault_gone:
            raise ConnectionError
        self.writers += 1
        self.most_writers = max(self.writers, self.most_writers)
        await asyncio.sleep(self.vault_s)
        self.writers -= 1
        self.log.append(f"fence {tenant}")

    def commit(self, rows):
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.log.append("commit")

    async def acknowledge(self, tenant, lane, state):
        r = state.residences[tenant]
        marks = r.critical if lane == "critical" else r.routine
        self.said = {epoch: mark.floor for epoch, mark in marks.items()}
        self.log.append(f"ack {tenant} {lane}")


class Bench:
    def __init__(self) -> None:
        self.press, self.recorder = Press(), Recorder()
        state = State(node=NODE[0], region=NODE[1], boot_id="b", trust_root=self.press.root.public_key)
        r = self.recorder
        self.custodian = Custodian(state, r, r, r.commit, r.acknowledge, ThreadPoolExecutor(1))
        self.sequence = 0

    def arrive(self, e, source=None):
        self.sequence += 1
        source = source or ("critical" if ".critical." in e.subject else "routine")
        return self.custodian.take(Arrived(source, self.sequence, e.subject, env.encode(e), 10**12))

    async def quiet(self):
        for _ in range(20):
            await asyncio.sleep(0.01)


@pytest.fixture
async def bench():
    b = Bench()
    running = asyncio.ensure_future(b.custodian.run())
    for e in [*b.press.opening(NODE), *b.press.onboarded("acme")]:
        await b.arrive(e).committed
    await b.quiet()
    b.recorder.log.clear()
    yield b
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def revoke(b):
    return b.press.residence("acme", d.AccessRevoked(reason="test"))


async def test_the_gate_is_closed_before_take_returns_and_the_ack_is_last(bench):
    taken = bench.arrive(revoke(bench))
    assert bench.recorder.log == ["close acme revoked"]
    await taken.committed
    await bench.quiet()
    assert bench.recorder.log == ["close acme revoked", "commit", "fence acme", "ack acme critical"]


async def test_a_full_disk_delays_the_ack_and_not_the_gate(bench):
    bench.recorder.disk_full = True
    bench.arrive(revoke(bench))
    await bench.quiet()
    assert bench.recorder.log == ["close acme revoked"]
    bench.recorder.disk_full = False
    await asyncio.sleep(0.7)
    assert bench.recorder.log[-1] == "ack acme critical"


async def test_without_the_fence_record_in_the_vault_there_is_no_ack(bench):
    bench.recorder.vault_gone = True
    bench.arrive(revoke(bench))
    await bench.quiet()
    assert not [x for x in bench.recorder.log if x.startswith("ack")]
    bench.recorder.vault_gone = False
    await asyncio.sleep(0.7)
    assert bench.recorder.log[-2:] == ["fence acme", "ack acme critical"]


async def test_a_revocation_is_acknowledged_while_a_slow_unseal_of_another_tenant_hangs(bench):
    bench.recorder.hold.clear()
    for e in bench.press.onboarded("bolt"):
        bench.arrive(e)
    bench.arrive(revoke(bench))
    await bench.quiet()
    assert "ack acme critical" in bench.recorder.log
    assert "provision bolt" not in bench.recorder.log
    bench.recorder.hold.set()
    await bench.quiet()
    assert bench.recorder.log.count("ack bolt routine") >= 1


async def test_many_routine_decrees_share_one_commit(bench):
    e = [
        bench.press.residence("acme", d.TenantConfigurationUpdated(lease_s=60, labels={"n": str(n)}))
        for n in range(200)
    ]
    for one in e:
        bench.arrive(one)
    await bench.quiet()
    assert bench.recorder.log.count("commit") <= 3
    assert bench.recorder.log[-1] == "ack acme routine"


async def test_many_revocations_while_the_vault_is_slow_have_one_writer_of_the_fence_and_are_all_acknowledged(bench):
    bench.recorder.vault_s = 0.02
    for _ in range(20):
        await bench.arrive(revoke(bench)).committed
    await bench.quiet()
    assert bench.recorder.said == {1: 20}
    assert bench.recorder.most_writers == 1
    assert bench.recorder.log.count("fence acme") < 20


async def test_a_later_decree_is_not_acknowledged_while_an_earlier_revocations_fence_is_not_in_the_vault(bench):
    bench.recorder.vault_gone = True
    bench.arrive(revoke(bench))
    await bench.quiet()
    bench.arrive(bench.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",))))
    await bench.quiet()
    assert not [x for x in bench.recorder.log if x.startswith("ack acme critical")]
    bench.recorder.vault_gone = False
    for _ in range(500):  # until it is said: how long that takes is the machine's business
        await asyncio.sleep(0.02)
        if getattr(bench.recorder, "said", None) == {1: 2}:
            break
    assert bench.recorder.said == {1: 2}


async def test_an_ack_says_what_is_on_the_disk_and_not_what_is_only_in_memory(bench):
    for e in bench.press.onboarded("acme"):
        bench.arrive(e)
    await bench.quiet()
    first = revoke(bench)
    await bench.arrive(first).committed
    bench.recorder.disk_full = True
    bench.arrive(revoke(bench))  # obeyed in memory, not written
    await bench.quiet()
    assert bench.custodian.state.residences["acme"].critical[1].floor == 2
    assert bench.recorder.said == {1: 1}


async def test_a_restarted_node_says_again_what_it_keeps(bench):
    bench.arrive(revoke(bench))
    await bench.quiet()
    bench.recorder.log.clear()
    bench.custodian.affirm("acme")
    await bench.quiet()
    assert "ack acme critical" in bench.recorder.log
    assert "ack acme routine" in bench.recorder.log


async def test_a_removed_workload_is_cut_before_its_removal_is_acknowledged(bench):
    for e in bench.press.onboarded("acme"):
        bench.arrive(e)
    await bench.quiet()
    bench.recorder.log.clear()
    bench.arrive(bench.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",))))
    await bench.quiet()
    assert bench.recorder.log[0].startswith("cut acme enr-acme-app")
    assert "ack acme critical" in bench.recorder.log[1:]
