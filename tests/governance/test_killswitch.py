"""When a revocation is answered: once the ledger has it, or else once the spool has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from openkcm.bus.spool import Spool
from openkcm.contract.envelope import Actor
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance import killswitch
from openkcm.governance.aggregate import Order
from openkcm.governance.errors import LedgerUnavailable
from openkcm.governance.killswitch import KillSwitch, Pulled
from openkcm.governance.registry import Recorded

EU, US = "eu-frankfurt", "us-virginia"
ORDER = Order(
    tenant="acme", actor=Actor(issuer="idp", subject="anna"), command="RevokeAccess", key="k", correlation="c", at_ms=1
)  # fmt: skip


class SlowLedger:
    """A registry whose ledger takes a region's revocation only when it is let."""

    def __init__(self) -> None:
        self.lets = {EU: asyncio.Event(), US: asyncio.Event()}
        self.away: set[str] = set()

    async def execute(self, where: DecreeSubject, _kind: object, order: Order, _decide: object) -> list[Recorded]:
        await self.lets[where.region].wait()
        if where.region in self.away:
            raise LedgerUnavailable("the ledger does not answer")
        return [Recorded(str(where), order.event_id(where), 1, 1, 7, order.correlation)]


@pytest.fixture
def ledger() -> SlowLedger:
    return SlowLedger()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def switch_of(ledger: SlowLedger, spool: Spool) -> KillSwitch:
    registry: Any = ledger
    return KillSwitch(registry, spool, connected=lambda: True, on_recorded=lambda _: None)


def told(pulled: list[Pulled]) -> dict[str, str]:
    return {p.region: p.recorded for p in pulled}


async def test_what_the_ledger_takes_at_once_never_comes_into_the_spool(
    ledger: SlowLedger, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killswitch, "SPOOL_AFTER_S", 60.0)
    monkeypatch.setattr(spool, "put", lambda *_: pytest.fail("it was spooled"))
    for let in ledger.lets.values():
        let.set()
    pulled = await switch_of(ledger, spool).pull("acme", [EU, US], "stolen", ORDER)
    assert told(pulled) == {EU: "ledger", US: "ledger"}


async def test_what_the_ledger_has_not_got_is_in_the_spool_before_the_answer(
    ledger: SlowLedger, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killswitch, "ANSWER_S", 0.05)
    ledger.lets[EU].set()
    pulled = await switch_of(ledger, spool).pull("acme", [EU, US], "stolen", ORDER)
    assert told(pulled) == {EU: "ledger", US: "spool"}
    assert [entry.id for entry in spool.entries()] == [pulled[1].event]


async def test_what_the_ledger_refuses_in_time_is_in_the_spool_too(ledger: SlowLedger, spool: Spool) -> None:
    ledger.away = {EU}
    for let in ledger.lets.values():
        let.set()
    pulled = await switch_of(ledger, spool).pull("acme", [EU, US], "stolen", ORDER)
    assert told(pulled) == {EU: "spool", US: "ledger"}
    assert [entry.id for entry in spool.entries()] == [pulled[0].event]


async def test_routine_work_gives_way_while_a_revocation_is_under_way_and_not_for_ever(
    ledger: SlowLedger, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killswitch, "ANSWER_S", 60.0)
    switch = switch_of(ledger, spool)
    pulling = asyncio.ensure_future(switch.pull("acme", [EU], "stolen", ORDER))
    await asyncio.sleep(0)
    routine = asyncio.ensure_future(switch.give_way(60.0))
    await switch.give_way(0.01)
    assert not routine.done()
    ledger.lets[EU].set()
    await pulling
    await routine
