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
    assert [m for batch in found for m in batch.messages] == bad
    good = {n for batch in found for n in batch.good}
    assert good == {m.sequence for m in messages if m.sequence % 7}


def test_garbage_stops_nobody(messages):
    bad = [messages[0], msgspec.structs.replace(messages[1], body=b'{"tag":"SigningKeyRotated.1"'), messages[2]]
    (batch,) = seals.checked(bad, ROOT.public_key)
    assert batch.good == {messages[0].sequence, messages[2].sequence}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_seal_that_somebody_vouches_for_is_not_looked_at(messages, workers, monkeypatch):
    monkeypatch.setattr(seals, "ALONE", 10)
    bad = [touched(m) if m.sequence > 40 else m for m in messages]
    asked = lambda sequence, subject, key: sequence % 2 == 0 and key == CMK.key_id  # noqa: E731
    found = list(seals.checked(bad, ROOT.public_key, workers=workers, batch=16, vouched=asked))
    by_cmk = {m.sequence for m in messages[3:-2]}
    assert {n for batch in found for n in batch.good if n in by_cmk} == {n for n in by_cmk if n <= 40 or n % 2 == 0}
    assert sum(batch.spared for batch in found) == sum(n % 2 == 0 for n in by_cmk)
