"""A beat never names an older head than governance has read or written, whatever the stream's leader says."""

from __future__ import annotations

import pytest

from openkcm.bus.errors import BusError
from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.governance.beat import Beats
from press import seed


class Ledger:
    """Answers with the head it is told to."""

    last = 0

    async def leader_last(self, _filters, *, since_s):
        return Stored(self.last, "s", b"", "i") if self.last else None


async def test_a_leader_that_names_an_older_head_than_was_read_or_written_gets_no_beat():
    ledger, sent = Ledger(), []

    async def send(_region, body, _id, tag):
        sent.append(reports.read_beat(tag, env.decode(body).data).head.sequence)

    beats = Beats(ledger, seed("cmk"), node_keys=dict, epoch=lambda: 1, heard=lambda _: None, send=send,
                  withheld=lambda _: ())  # fmt: skip
    beats.join("eu-frankfurt")
    for sequence in (5, 7):
        beats.chains["eu-frankfurt"].add(sequence, b"x")
    ledger.last = 5
    with pytest.raises(BusError, match="older head than 7"):
        await beats._answer("eu-frankfurt", ("a" * 32,))
    ledger.last = 7
    await beats._answer("eu-frankfurt", ("a" * 32,))
    beats.recorded("eu-frankfurt", 9)
    with pytest.raises(BusError, match="older head than 9"):
        await beats._answer("eu-frankfurt", ("a" * 32,))
    assert sent == [7]


async def test_a_beat_leaves_out_the_tenants_that_its_cmk_withholds_and_reads_them_before_the_head():
    read, sent = [], []

    class Noting(Ledger):
        async def leader_last(self, filters, *, since_s):
            read.append("head")
            return await super().leader_last(filters, since_s=since_s)

    def withheld(region):
        read.append(region)
        return ("acme",)

    async def send(_region, body, _id, tag):
        sent.append(reports.read_beat(tag, env.decode(body).data))

    beats = Beats(Noting(), seed("cmk"), node_keys=dict, epoch=lambda: 1, heard=lambda _: None, send=send,
                  withheld=withheld)  # fmt: skip
    beats.join("eu-frankfurt")
    await beats._answer("eu-frankfurt", ("a" * 32,))
    assert read == ["eu-frankfurt", "head"]
    assert [(type(beat), beat.withheld) for beat in sent] == [(reports.Withholding, ("acme",))]


async def test_with_more_tenants_to_leave_out_than_a_beat_holds_there_is_none():
    async def send(*_):
        pytest.fail("a beat was sent")

    many = tuple(f"t-{n}" for n in range(reports.MOST_WITHHELD + 1))
    beats = Beats(Ledger(), seed("cmk"), node_keys=dict, epoch=lambda: 1, heard=lambda _: None, send=send,
                  withheld=lambda _: many)  # fmt: skip
    beats.join("eu-frankfurt")
    with pytest.raises(BusError, match="257 tenants"):
        await beats._answer("eu-frankfurt", ("a" * 32,))
