"""A ledger that holds every tag there ever was, retired ones included, is verified and replayed."""

import uuid
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from audit.sealed_ledger import CMK, ROOT, SealedLedger
from golden import examples
from openkcm.audit.replay import folded
from openkcm.audit.verify import BadEvent, TrustedLedger
from openkcm.contract import decrees as d
from openkcm.contract import envelope
from openkcm.contract.retired import RETIRED

GOLDEN = Path(__file__).parent.parent / "golden" / "decrees"


class Stored(NamedTuple):
    sequence: int
    subject: str
    body: bytes
    id: str


def every_version():
    """Opened as usual, then each golden file's data, sealed anew at its place in this ledger."""
    ledger = SealedLedger().open()
    for tag in d.KNOWN_TAGS:
        if d.kind_of(tag).decree in d.TRUST_ROOT_DECREES:
            continue
        old = envelope.decode((GOLDEN / f"{tag}.json").read_bytes())
        counter = ledger.counters.get((1, old.subject), 0) + 1
        ledger.counters[1, old.subject] = counter
        sequence = len(ledger.entries) + 1
        new = msgspec.structs.replace(old, id=str(uuid.UUID(int=sequence)), counter=counter, epoch=1)
        sealed = envelope.seal_envelope(new, CMK)
        ledger.entries.append((sequence, sealed.subject, envelope.encode(sealed), sealed.id))
    return ledger


def test_every_version_is_verified_and_replayed_and_nothing_is_rejected():
    ledger = every_version()
    trusted = TrustedLedger(ROOT.public_key)
    events = [trusted.add(*entry) for entry in ledger.entries]
    assert {e.envelope.tag for e in events} >= set(RETIRED)
    assert {type(e.decree) for e in events} == {kind.decree for kind in d.DECREES.values()} - {d.NodeRemoved}
    tables = folded([Stored(*entry) for entry in ledger.entries], ROOT.public_key)
    assert tables["rejected"] == []
    denied = [row[1:6] for row in tables["access_denied"]]
    who = "f3b9a6d2-anna", "POST /tenants", "missing-role"
    assert denied == [(*who, None, None), (*who, examples.TENANT, examples.REGION)]


def test_without_its_upcast_a_retired_event_stops_the_audit(monkeypatch):
    whole = every_version()
    monkeypatch.delitem(RETIRED, "AccessDenied.1")
    trusted = TrustedLedger(ROOT.public_key)
    with pytest.raises(BadEvent, match=r"AccessDenied\.1"):
        [trusted.add(*entry) for entry in whole.entries]
