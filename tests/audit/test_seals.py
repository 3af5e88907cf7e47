"""Seals in bulk: by a pool or here, the same answers, in order; a touched one is never among the good."""

import msgspec
import pytest

from audit.evidence import lines
from audit.sealed_ledger import CMK, ROOT, SealedLedger
from openkcm.audit import seals
from openkcm.contract import decrees as d
from openkcm.contract.seal import Signer

NEXT = Signer(b"\x08" * 32)


@pytest.fixture(scope="module")
def messages():
    ledger = SealedLedger().open()
    for n in range(60):
        ledger.residence(d.TenantConfigurationUpdated(labels={"n": str(n)}))
    ledger.ledger(d.SigningKeyRotated(key=NEXT.key_id, public_key=NEXT.public_key, retires=(CMK.key_id,)))
    ledger.residence(d.TenantConfigurationUpdated(), signer=NEXT)
    return lines(ledger)


def touched(message):
    return msgspec.structs.replace(message, body=message.body.replace(b'"at_ms":1', b'"at_ms":2'))


@pytest.mark.parametrize("workers", [1, 2])
def test_good_seals_are_named_and_touched_ones_are_not(messages, workers, monkeypatch):
    monkeypatch.setattr(seals, "ALONE", 10)
    bad = [touched(m) if m.sequence % 7 == 0 else m for m in messages]
    found = list(seals.checked(bad, ROOT.public_key, workers=workers, batch=16))
    assert [m for batch, _ in found for m in batch] == bad
    good = {n for _, good in found for n in good}
    assert good == {m.sequence for m in messages if m.sequence % 7}


def test_garbage_stops_nobody(messages):
    bad = [messages[0], msgspec.structs.replace(messages[1], body=b'{"tag":"SigningKeyRotated.1"'), messages[2]]
    ((_, good),) = seals.checked(bad, ROOT.public_key)
    assert good == {messages[0].sequence, messages[2].sequence}
