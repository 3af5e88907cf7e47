"""A HealthCheck stays small however many tenants a node holds, and governance adds its pages up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec

from openkcm.bus.errors import Unavailable
from openkcm.contract import reports
from openkcm.contract.seal import Signer
from openkcm.execution.reporter import AT_ONCE, MARKS, Reporter
from openkcm.execution.residence_state import Residence, State
from openkcm.execution.voice import Voice
from openkcm.governance.watch import Watch

TENANTS = 5000
BUS_MESSAGE_BYTES = 65536


def node(count: int = TENANTS) -> tuple[Reporter, SimpleNamespace]:
    held = {f"tenant-{i:05d}": Residence(tenant=f"tenant-{i:05d}") for i in range(count)}
    state = State(node="eu-frankfurt-1", region="eu-frankfurt", boot_id="boot", trust_root=bytes(32), residences=held)
    reporter = Reporter(None, None, None, None)
    reporter.custodian = SimpleNamespace(state=state, alarms={})
    return reporter, reporter.custodian


def told(reporter: Reporter) -> list[str]:
    return [mark.tenant for mark in reporter.health_check("0" * 32, 0).residences]


def test_it_fits_a_message_of_the_bus_with_five_thousand_tenants():
    reporter, _ = node()
    assert len(msgspec.json.encode(reporter.health_check("0" * 32, 0))) < BUS_MESSAGE_BYTES / 3


def test_each_tenant_is_told_of_in_its_turn():
    reporter, custodian = node()
    seen = set()
    for _ in range(TENANTS // MARKS + 1):
        seen |= set(told(reporter))
    assert seen == custodian.state.residences.keys()


def test_what_changed_is_told_at_once():
    reporter, custodian = node()
    for _ in range(TENANTS // MARKS + 1):
        told(reporter)
    name = "tenant-04999"
    changed = custodian.state.residences | {name: Residence(tenant=name, suspended=True)}
    custodian.state = msgspec.structs.replace(custodian.state, residences=changed)
    assert told(reporter)[0] == name
    assert told(reporter)[0] != name


def test_a_node_with_few_tenants_tells_of_all_each_time():
    reporter, _ = node(3)
    assert len(told(reporter)) == len(told(reporter)) == 3


def test_governance_adds_the_pages_up_and_knows_news_from_a_lease_that_runs():
    reporter, custodian = node(2 * MARKS)
    clock = [100.0]
    watch = Watch(None, monotonic=lambda: clock[0])
    assert watch.heard(reporter.health_check("0" * 32, 0), 0)
    assert watch.heard(reporter.health_check("0" * 32, 0), 0)
    assert watch.health["eu-frankfurt-1"].marks.keys() == custodian.state.residences.keys()
    assert not watch.heard(reporter.health_check("0" * 32, 0), 0)
    check = reporter.health_check("0" * 32, 0)
    less = msgspec.structs.replace(check.residences[0], lease_left_s=1)
    assert not watch.heard(msgspec.structs.replace(check, residences=(less,)), 0)
    fenced = msgspec.structs.replace(less, fence=1)
    assert watch.heard(msgspec.structs.replace(check, residences=(fenced,)), 0)
    assert isinstance(watch.health["eu-frankfurt-1"].marks[fenced.tenant][0], reports.Mark)


async def test_thousands_of_acknowledgements_are_on_their_way_a_few_at_once_and_no_critical_one_waits_for_routine_ones():
    on_their_way = most = 0
    said: list[str] = []
    open_to = {"critical"}

    async def send(e):
        nonlocal on_their_way, most
        ack = msgspec.json.decode(e.data, type=reports.SyncAck)
        on_their_way += 1
        most = max(most, on_their_way)
        await asyncio.sleep(0.001)
        on_their_way -= 1
        if ack.lane not in open_to:
            raise Unavailable("no answer within 2 s")
        said.append(f"{ack.lane} {ack.tenant}")

    reporter = Reporter(Voice("eu-frankfurt-1", "eu-frankfurt", Signer(bytes(32))), SimpleNamespace(closed_boottime_ns={}),
                        send, send)  # fmt: skip
    state = node()[1].state
    routine = [asyncio.ensure_future(reporter.acknowledge(tenant, "routine", state)) for tenant in state.residences]
    await asyncio.sleep(0.01)
    await asyncio.gather(*(reporter.acknowledge(t, "critical", state) for t in list(state.residences)[: 4 * AT_ONCE]))
    assert len(said) == 4 * AT_ONCE
    assert most <= 2 * AT_ONCE
    open_to.add("routine")
    await asyncio.gather(*routine)
    assert len(said) == 4 * AT_ONCE + TENANTS
    assert most <= 2 * AT_ONCE
