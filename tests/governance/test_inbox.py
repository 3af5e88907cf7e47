"""Reports that count something are counted once, however often they come; one that is missing shows."""

from __future__ import annotations

import pytest

from openkcm.bus.messages import Stored
from openkcm.contract import reports, resources
from openkcm.contract.envelope import encode
from openkcm.contract.seal import Signer
from openkcm.execution.voice import Voice
from openkcm.governance import inbox
from openkcm.governance.views import Views
from openkcm.projector import open_writer

OWN = Signer(bytes(32))
KEYS = {OWN.key_id: ("eu-frankfurt-1", "eu-frankfurt", OWN.public_key)}
SERIES = "0a0b0c0d-0e0f-4a0b-8c0d-0e0f0a0b0c0d"


@pytest.fixture
def writer(tmp_path):
    writer = open_writer(tmp_path / "cmk.sqlite", resources.ROOT / "projections" / "cmk")
    yield writer
    writer.close()


def handed(number, *of, series=SERIES):
    one = tuple(
        reports.Handed(registration="reg-1", workload=workload, object_id=f"key-{i}", wrapped=wrapped, times=times,
                       first_ms=first, last_ms=last)
        for i, (workload, wrapped, times, first, last) in enumerate(of)
    )  # fmt: skip
    return reports.HandedOut(tenant="acme", series=series, number=number, handed=one)


class Inbox:
    """A node's voice into the read model's tables."""

    def __init__(self, writer):
        self.writer, self.voice = writer, Voice("eu-frankfurt-1", "eu-frankfurt", OWN)

    def hear(self, report, *, times=1):
        e = self.voice.report("acme", report, epoch=1)
        for sequence in range(times):
            self.writer.apply(inbox.rows_of(inbox.hear(Stored(sequence, e.subject, encode(e), e.id), KEYS)))

    def sums(self):
        return self.writer.rows("SELECT workload, form, times, first_ms, last_ms FROM handed_out ORDER BY 1, 2")

    def missing(self):
        return sum(n for (n,) in self.writer.rows("SELECT missing FROM counted_series"))


def test_a_replayed_report_adds_nothing(writer):
    mouth = Inbox(writer)
    first = handed(1, ("app", False, 3, 10, 20), ("app", False, 4, 5, 15), ("app", True, 1, 30, 30))
    second = handed(2, ("app", False, 2, 40, 50), ("other", False, 1, 41, 41))
    for report in (first, second, first, second, first):
        mouth.hear(report, times=2)
    assert mouth.sums() == [("app", "plain", 9, 5, 50), ("app", "wrapped", 1, 30, 30), ("other", "plain", 1, 41, 41)]
    assert mouth.missing() == 0


def test_a_missing_report_shows_and_a_new_series_counts_from_its_beginning(writer):
    mouth = Inbox(writer)
    mouth.hear(handed(1, ("app", False, 1, 1, 1)))
    mouth.hear(handed(4, ("app", False, 1, 1, 1)))
    assert mouth.missing() == 2
    mouth.hear(handed(1, ("app", False, 5, 1, 1), series="another"))  # the node lost its disk
    assert mouth.sums() == [("app", "plain", 7, 1, 1)]
    assert mouth.missing() == 2


def test_an_acknowledgement_said_again_keeps_the_time_of_the_first(writer):
    mouth = Inbox(writer)

    def kept():
        return writer.rows("SELECT floor, state, closed_boottime_ns FROM node_ack")

    def ack(floor, state, closed):
        mouth.hear(reports.SyncAck(tenant="acme", lane="critical", ledger_epoch=1, floor=floor, state=state, boot_id="b",
                                   closed_boottime_ns=closed, lease_s=60))  # fmt: skip

    ack(1, "revoked", 100)
    ack(1, "revoked", 900)
    assert kept() == [(1, "revoked", 100)]
    ack(1, "destroyed", 950)
    assert kept() == [(1, "destroyed", 950)]
    ack(2, "destroyed", 960)
    ack(1, "revoked", 970)
    assert kept() == [(2, "destroyed", 960)]


def test_a_critical_lane_waits_for_each_enrolled_node_of_its_region_in_its_newest_epoch(writer):
    mouth, views = Inbox(writer), Views(writer)
    for name, region, sequence in (("eu-frankfurt-1", "eu-frankfurt", 1), ("us-virginia-1", "us-virginia", 2)):
        writer.make([f"INSERT INTO node_enrolled VALUES ('k{name}', '{name}', '{region}', '', {sequence})"])

    def decreed(tenant, region, epoch, counter):
        mark = f"'s-{tenant}-{region}', {epoch}, '{region}', '{tenant}', 'residence', {counter}, 'h', 9"
        writer.make([f"INSERT OR REPLACE INTO mark_critical VALUES ({mark})"])

    def ack(epoch, floor):
        mouth.hear(reports.SyncAck(tenant="acme", lane="critical", ledger_epoch=epoch, floor=floor, state="revoked",
                                   boot_id="b", lease_s=60))  # fmt: skip

    decreed("acme", "eu-frankfurt", 1, 3)
    decreed("bolt", "us-virginia", 1, 1)
    decreed("cord", "ap-nowhere", 1, 1)  # no node of ours
    both = [("acme", "eu-frankfurt", 1, 3), ("bolt", "us-virginia", 1, 1)]
    assert sorted(views.critical_waiting()) == both
    ack(1, 2)
    assert sorted(views.critical_waiting()) == both
    ack(1, 3)
    assert views.critical_waiting() == both[1:]
    decreed("acme", "eu-frankfurt", 2, 1)
    assert ("acme", "eu-frankfurt", 2, 1) in views.critical_waiting()
