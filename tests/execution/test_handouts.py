"""Each Get is recorded before it is answered and reported once, many in a report, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from custody.residence_bench import REGION, onboard, serving_node
from execution.custodian_double import CustodianDouble
from execution.in_process import InProcess
from execution.kmip_client import Failed
from openkcm.bus.errors import Unavailable
from openkcm.bus.reports import usage
from openkcm.contract import decrees as d
from openkcm.contract import reports, resources
from openkcm.contract.envelope import decode
from openkcm.contract.seal import Signer
from openkcm.execution import control, handoutlog, handouts
from openkcm.execution import desk as desk_of_workers
from openkcm.execution.handoutlog import Entry, HandOutLog, LogFull
from openkcm.execution.handouts import HandOuts
from openkcm.execution.outbox import Outbox
from openkcm.execution.voice import Voice
from openkcm.kmip.enums import ResultReason, ResultStatus
from openkcm.kmip.payloads.retrieval import GetRequest
from openkcm.projector import open_writer
from openkcm.projector.database import StorageFailed

CLOCK = itertools.count(1000)


def entry(uid="key-1", tenant="acme", *, wrapped=False):
    return Entry(tenant, "reg-payments", "app", uid, wrapped, next(CLOCK))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(handoutlog, "SLOTS", 4)
    monkeypatch.setattr(handoutlog, "LOG_BYTES", handoutlog.HEADER_BYTES + 4 * handoutlog.SLOT_BYTES)


def opened(path):
    log, fd = HandOutLog.open(path)
    os.close(fd)
    return log


# --- the worker's log -------------------------------------------------------------------------------------------------


def test_what_a_worker_wrote_is_there_for_whoever_maps_the_file_next(tmp_path):
    told = [entry(f"key-{i}", wrapped=i % 2 == 0) for i in range(5)]
    log = opened(tmp_path / "log")
    for one in told:
        log.write(one)
    other = opened(tmp_path / "log")
    assert other.read() == (5, told)
    other.write(told[0])  # a new worker at the same place goes on behind it
    other.release(5)
    assert opened(tmp_path / "log").read() == (6, [told[0]])


def test_a_full_log_refuses_until_its_entries_are_released(tmp_path, small):
    log, custodian = opened(tmp_path / "log"), opened(tmp_path / "log")
    assert [log.write(entry()) for _ in range(4)] == [False, True, False, False]  # half full is said once
    with pytest.raises(LogFull):
        log.write(entry())
    custodian.release(3)
    for _ in range(3):
        log.write(entry())
    with pytest.raises(LogFull):
        log.write(entry())
    assert custodian.read()[0] == 7


def test_a_torn_entry_ends_the_reading_and_is_written_over(tmp_path):
    log = opened(tmp_path / "log")
    for i in range(3):
        log.write(entry(f"key-{i}"))
    place = handoutlog.HEADER_BYTES + 2 * handoutlog.SLOT_BYTES
    log._map[place + 20] ^= 1
    again = opened(tmp_path / "log")
    assert [e.object_id for e in again.read()[1]] == ["key-0"]
    again.write(entry("key-9"))
    assert [e.object_id for e in opened(tmp_path / "log").read()[1]][:2] == ["key-0", "key-9"]


def test_the_longest_names_fit(tmp_path):
    log = opened(tmp_path / "log")
    longest = Entry("t" * 63, "r" * 63, "w" * 63, "o" * 63, True, 1 << 48)
    log.write(longest)
    assert log.read()[1] == [longest]


def test_a_get_that_cannot_be_recorded_hands_nothing_out(tmp_path, small):
    inside = InProcess(tmp_path)
    uid = inside.new_key()
    for _ in range(4):
        assert inside.item(GetRequest(unique_identifier=uid)).payload is not None
    assert inside.told.count(control.HandOutsWait()) == 1
    refused = inside.item(GetRequest(unique_identifier=uid))
    assert (refused.payload, refused.reason) == (None, ResultReason.GENERAL_FAILURE)
    assert inside.told.count(control.HandOutsWait(1)) == 1  # room was asked for, and there was none
    assert len(inside.handed.read()[1]) == 4
    inside.end()


def test_a_get_that_finds_the_log_full_waits_until_it_is_taken(tmp_path, small):
    inside, custodian = InProcess(tmp_path), []

    def take() -> None:
        end, entries = inside.handed.read()
        custodian.extend(entries)
        inside.handed.release(end)

    inside.take_hand_outs = take
    uid = inside.new_key()
    for _ in range(9):
        assert inside.item(GetRequest(unique_identifier=uid)).payload is not None
    assert len(custodian) == 8
    answers = inside.items(*[GetRequest(unique_identifier=uid)] * 9)
    assert [a.status for a in answers] == [ResultStatus.SUCCESS] * 9
    assert len(custodian) + len(inside.handed.read()[1]) == 18
    inside.end()


async def test_a_workers_gets_wait_for_their_custodian_and_none_is_refused(tmp_path):
    async with CustodianDouble(tmp_path) as custodian:
        custodian.slow_hand_outs = True
        custodian.system("acme", "pay")
        clients = [await custodian.client(custodian.enrol("acme", "pay", f"app-{n}")) for n in range(2)]
        uid = await clients[0].new_key()
        many = [GetRequest(unique_identifier=uid)] * 60

        async def all_of(client):
            return [item.status for _ in range(150) for item in await client.batch(*many)]

        found = await asyncio.gather(*map(all_of, clients))
        assert {status for one in found for status in one} == {ResultStatus.SUCCESS}
        assert sum(isinstance(q, control.HandOutsWait) and q.n > 0 for q in custodian.asked) >= 1
        for client in clients:
            await client.close()


async def test_the_desk_says_taken_when_it_is_durable():
    order = []

    async def take() -> None:
        await asyncio.sleep(0)
        order.append("taken")

    desk = SimpleNamespace(_hand_outs=SimpleNamespace(take=take, wake=lambda: order.append("woken")))
    assert await desk_of_workers.Desk._handed(desk, control.HandOutsWait()) is None
    assert await desk_of_workers.Desk._handed(desk, control.HandOutsWait(7)) == control.Taken(7)
    assert order == ["woken", "taken"]


# --- the custodian's side ---------------------------------------------------------------------------------------------


class Desk:
    """A node's database, one worker's log, and a bus that can be away."""

    def __init__(self, folder):
        self.folder, self.sent, self.away, self.alarms = folder, [], False, []
        self.voice = Voice("eu-frankfurt-1", "eu-frankfurt", Signer(bytes(32)))
        self.start()

    def start(self):
        """A life of the custodian: what an earlier one held in memory is gone."""
        self.disk = ThreadPoolExecutor(1)
        self.database = open_writer(self.folder / "node.sqlite", resources.ROOT / "projections" / "node")
        self.log = opened(self.folder / "log")
        self.outbox = Outbox(self.database, self.disk, lambda t, r: self.voice.report(t, r, epoch=1), self._send)
        self.handouts = HandOuts(
            self.database, self.outbox, lambda: [self.log], lambda tenant, _: tenant != "evil", self.alarms.append
        )

    async def _send(self, e):
        if self.away:
            raise Unavailable("no bus")
        self.sent.append(e)

    def told(self):
        return [reports.read(e.tag, e.data) for e in self.sent]

    def counts(self):
        out = {}
        for report in self.told():
            for one in report.handed:
                key = (report.tenant, one.object_id, one.wrapped)
                out[key] = out.get(key, 0) + one.times
        return out


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


async def test_many_gets_are_one_report(desk):
    told = [entry() for _ in range(1000)] + [entry(wrapped=True) for _ in range(10)] + [entry("key-2", "bolt")]
    for one in told:
        desk.log.write(one)
    await desk.handouts.flush()
    assert [(r.tenant, r.number, len(r.handed)) for r in desk.told()] == [("acme", 1, 2), ("bolt", 1, 1)]
    plain, wrapped = desk.told()[0].handed
    assert (plain.times, plain.wrapped, plain.first_ms, plain.last_ms) == (1000, False, told[0].at_ms, told[999].at_ms)
    assert (wrapped.times, wrapped.wrapped) == (10, True)
    await desk.handouts.flush()
    assert len(desk.sent) == 2


async def test_a_report_carries_so_many_keys_and_no_more(desk):
    for i in range(reports.MOST_COUNTED + 1):
        desk.log.write(Entry("acme", "r" * 63, "w" * 63, f"{i:063}", False, 1 << 42))
    await desk.handouts.flush()
    assert [len(r.handed) for r in desk.told()] == [reports.MOST_COUNTED, 1]
    assert max(len(e.data) for e in desk.sent) < 60_000


async def test_while_the_bus_is_away_counts_grow_and_reports_do_not(desk):
    desk.away = True
    for _ in range(5):
        desk.log.write(entry())
        desk.log.write(entry("key-2", "bolt"))
        await desk.handouts.flush()
    assert desk.database.rows("SELECT count(*) FROM outbox")[0][0] == 2
    assert desk.log.read()[1] == []  # durable here: the worker has its room back
    desk.away = False
    await desk.handouts.flush()
    await desk.handouts.flush()
    assert desk.counts() == {("acme", "key-1", False): 5, ("bolt", "key-2", False): 5}
    assert [r.number for r in desk.told() if r.tenant == "acme"] == [1, 2]


@pytest.mark.parametrize(
    "when", ["before-the-commit", "before-the-release", "before-the-sending", "before-it-is-noted"]
)
async def test_a_custodian_that_dies_loses_none_and_counts_none_twice(desk, when, monkeypatch):
    for _ in range(3):
        desk.log.write(entry())

    async def dies(*_):
        raise SystemError

    with monkeypatch.context() as patch:
        match when:
            case "before-the-commit":
                patch.setattr(desk.outbox, "commit", dies)
            case "before-the-release":
                patch.setattr(desk.log, "release", lambda _: 1 / 0)
            case "before-the-sending":
                patch.setattr(desk.outbox, "send", dies)
            case "before-it-is-noted":
                apply = desk.database.apply
                patch.setattr(
                    desk.database, "apply", lambda rows: 1 / 0 if rows[0][0] == "outbox_sent" else apply(rows)
                )
        with pytest.raises((SystemError, ZeroDivisionError)):
            await desk.handouts.flush()
    desk.start()
    desk.log.write(entry())
    await desk.handouts.flush()
    await desk.handouts.flush()
    once = {e.id: e for e in desk.sent}  # the same report may come twice: same id, same bytes
    assert [reports.read(e.tag, e.data).number for e in once.values()] == list(range(1, len(once) + 1))
    desk.sent = list(once.values())
    assert desk.counts() == {("acme", "key-1", False): 4}


async def test_what_the_disk_does_not_take_stays_in_the_log(desk, monkeypatch):
    def full(_):
        raise StorageFailed("disk full")

    desk.log.write(entry())
    with monkeypatch.context() as patch:
        patch.setattr(desk.database, "apply", full)
        await desk.handouts.flush()
    assert (desk.sent, desk.alarms, len(desk.log.read()[1])) == ([], ["hand-outs-not-stored"], 1)
    await desk.handouts.flush()
    assert desk.counts() == {("acme", "key-1", False): 1}


async def test_too_many_keys_are_left_in_the_logs(desk, monkeypatch):
    monkeypatch.setattr(handouts, "MOST_OPEN", 3)
    desk.away = True
    desk.log.write(entry("first"))
    await desk.handouts.flush()
    for i in range(4):
        desk.log.write(entry(f"key-{i}"))
    await desk.handouts.flush()
    assert len(desk.log.read()[1]) == 4
    assert desk.alarms == ["hand-outs-too-many"]


async def test_a_worker_that_lies_about_a_tenant_is_not_believed(desk):
    desk.log.write(entry(tenant="evil"))
    desk.log.write(entry())
    await desk.handouts.flush()
    assert desk.counts() == {("acme", "key-1", False): 1}
    assert desk.alarms == ["hand-out-unknown"]


async def test_a_log_that_a_power_cut_set_back_is_not_counted_again_and_hides_nothing(desk):
    for _ in range(3):
        desk.log.write(entry())
    before = (desk.folder / "log").read_bytes()[: handoutlog.HEADER_BYTES]
    await desk.handouts.flush()
    raw = bytearray((desk.folder / "log").read_bytes())
    raw[: handoutlog.HEADER_BYTES] = before  # the header of before, and the entries are lost
    raw[handoutlog.HEADER_BYTES :] = bytes(len(raw) - handoutlog.HEADER_BYTES)
    (desk.folder / "log").write_bytes(raw)
    desk.start()
    worker = opened(desk.folder / "log")
    worker.write(entry())
    await desk.handouts.flush()
    assert desk.counts() == {("acme", "key-1", False): 4}


# --- a node -----------------------------------------------------------------------------------------------------------


async def test_a_node_killed_right_after_gets_reports_them_when_it_is_back_and_before_it_acks_a_revocation(tmp_path):
    def handed():
        mine = [r for r in governor.seen if isinstance(r, reports.HandedOut)]
        return sum(one.times for r in mine for one in r.handed)

    async with serving_node(tmp_path) as (governor, node):
        acme = await onboard(governor, node, "acme")
        client = await acme.client(node)
        uid = await client.new_key()
        for _ in range(20):
            await client.call(GetRequest(unique_identifier=uid))
        node.kill()
        await client.close()
        node.start()
        await node.wait_ready()
        await governor.until(lambda: handed() == 20)
        client = await acme.client(node)
        for _ in range(7):
            await client.call(GetRequest(unique_identifier=uid))
        # another policy holds for connections that are there, once it is acknowledged
        never = d.SystemConfigured(registration=acme.registration, hand_out="never")
        await governor.append(governor.press.residence("acme", never, counter=6))
        await governor.until(lambda: governor.acked("acme", "routine", 6))
        with pytest.raises(Failed, match="hand-out policy"):
            await client.call(GetRequest(unique_identifier=uid))
        done = [await client.encrypt(uid, b"x") for _ in range(5)]
        assert await client.decrypt(uid, done[0]) == b"x"
        await governor.append(governor.press.residence("acme", d.AccessRevoked(reason="ordered"), counter=1))
        await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
        assert handed() == 27
        numbers = [r.number for r in governor.seen if isinstance(r, reports.HandedOut)]
        assert numbers == list(range(1, len(numbers) + 1))
        await client.close()
        node.stop()
        auditor = await governor.orbital.connect(
            f"{REGION}-auditor"
        )  # the use of keys is in the region, and nowhere else
        held = await usage(auditor, REGION, "acme")
        assert await usage(auditor, REGION, "bolt") == []
        await auditor.close()
        told = [reports.read(e.tag, e.data) for e in (decode(body) for _, body in held)]
        assert [(r.number, u.object_id, u.encrypted, u.decrypted) for r in told for u in r.used] == [(1, uid, 5, 1)]
        assert not [r for r in governor.seen if isinstance(r, reports.KeyUsage)]
