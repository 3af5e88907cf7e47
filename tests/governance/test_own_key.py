"""A CMK whose sealing key the ledger does not announce writes nothing: it would not believe itself afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from openkcm.bus.publish import Appended
from openkcm.contract.envelope import Actor
from openkcm.contract.subjects import residence_aggregate
from openkcm.governance.aggregate import Order
from openkcm.governance.errors import LedgerUnavailable
from openkcm.governance.registry import Registry
from openkcm.governance.residence import Residence
from press import seed


class Empty:
    """A ledger without events, which takes what comes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def read(self, _subject: str, *, after: int = 0, limit: int = 1000) -> list[Any]:
        return []

    async def append(self, _subject: str, body: bytes, **_how: Any) -> Appended:
        self.bodies.append(body)
        return Appended(len(self.bodies), duplicate=False)


async def test_nothing_is_sealed_with_a_key_that_the_ledger_does_not_announce() -> None:
    ledger, own = Empty(), seed("cmk")
    announced: dict[str, bytes] = {}
    seen = SimpleNamespace(epoch=1, cursor=0, signing_keys=announced, keys_at=lambda _sequence: announced)
    registry = Registry(ledger, own, seed("root").public_key, projection=seen)  # type: ignore[arg-type]
    where = residence_aggregate("eu-frankfurt", "acme", "critical")
    order = Order(
        tenant="acme", actor=Actor(issuer="i", subject="s"), command="RevokeAccess", key="k", correlation="c", at_ms=1
    )
    with pytest.raises(LedgerUnavailable, match="announce"):
        await registry.execute(where, Residence, order, lambda r: r.revoke("drill"))
    assert ledger.bodies == []
    announced[own.key_id] = own.public_key
    assert (await registry.execute(where, Residence, order, lambda r: r.revoke("drill")))[0].counter == 1
    assert len(ledger.bodies) == 1
