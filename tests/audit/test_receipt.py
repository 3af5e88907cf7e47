"""Receipts: a document that proves one revocation, and stops proving it when anything in it is touched."""

import base64
import json

import pytest

from audit.evidence import MADE, life, replayed, signed
from audit.sealed_ledger import NODE_NAME, REGION, ROOT, TENANT, SealedLedger
from openkcm.audit import receipt
from openkcm.audit.page import page_of
from openkcm.audit.receipt import BadReceipt
from openkcm.audit.verify import AuditError

HANDED = [{"system": "payments", "workload": "<app>", "times": 3, "wrapped": 1, "last_at": MADE, "policy": "allowed"}]


def made(ledger, event, handed_out=None):
    with replayed(ledger) as replay:
        return receipt.make(
            replay.writer, ROOT.public_key, signed(replay), event, made_at=MADE, handed_out=handed_out
        )  # fmt: skip


@pytest.fixture(scope="module")
def document():
    return made(*life(), HANDED)


def raw(document):
    return json.dumps(document).encode()


def test_a_receipt_says_who_ordered_who_obeyed_how_late_and_who_lifted_it(document):
    found = receipt.check(raw(document), ROOT.public_key)
    s = found.summary
    assert (s["tenant"], s["region"], s["outcome"], s["silent"]) == (TENANT, REGION, "acked", [])
    assert [(n["node"], n["after_ms"], n["state"]) for n in s["nodes"]] == [(NODE_NAME, 10, "revoked")]
    assert s["lifted"]["signed_by"] == ["anna", "ben"]
    assert found.events == found.proven == len(document["events"])
    assert found.outside["handed_out"] == HANDED


def test_its_page_is_the_documents_own_and_escapes_every_word(document):
    page = page_of(document)
    assert receipt.check(page, ROOT.public_key) == receipt.check(raw(document), ROOT.public_key)
    assert b"<app>" not in page
    assert b"&lt;app&gt;" in page
    assert not [what for what in (b" src=", b" href=", b"url(", b"@import") if what in page]  # loads nothing
    for old, new in ((b"10 ms", b"1 ms"), (b"Obeyed by every node", b"Obeyed by some")):
        assert old in page
        with pytest.raises(BadReceipt, match="page is not the one"):
            receipt.check(page.replace(old, new), ROOT.public_key)


def test_an_unconfirmed_revocation_names_the_silent_node():
    ledger = SealedLedger().open()
    lift = ledger.revoke()
    found = receipt.check(raw(made(ledger, lift.event)))
    assert (found.summary["outcome"], found.summary["silent"], found.summary["nodes"]) == ("open", [NODE_NAME], [])
    assert found.outside["handed_out"] is None


def touched(path, value):
    def touch(document):
        *way, last = path
        here = document
        for step in way:
            here = here[step]
        here[last] = value(here[last]) if callable(value) else value

    return touch


def swap_event(document):
    document["events"][-1], document["events"][-2] = document["events"][-2], document["events"][-1]


def drop_event(document):
    del document["events"][-3], document["proofs"][-3]


def flip(text):
    body = bytearray(base64.b64decode(text))
    body[len(body) // 2] ^= 1
    return base64.b64encode(bytes(body)).decode()


@pytest.mark.parametrize(
    "touch",
    [
        touched(["summary", "ordered_at"], MADE),
        touched(["summary", "nodes", 0, "after_ms"], 1),
        touched(["summary", "silent"], ["other"]),
        touched(["summary", "lifted"], None),
        touched(["events", -1, "original"], flip),
        touched(["events", 0, "original"], flip),
        touched(["events", -1, "sequence"], 99),
        touched(["proofs", 0, "index"], 1),
        touched(["proofs", -1, "path", 0], flip),
        touched(["proofs"], []),
        touched(["checkpoints"], []),
        touched(["checkpoints", 0], lambda note: note.replace("\n5\n", "\n6\n").replace("sequence", "sequence ")),
        touched(["ledger"], "openkcm-other"),
        touched(["trust_root"], base64.b64encode(bytes(32)).decode()),
        touched(["revocation"], "99999999-2222-8333-8444-555555555555"),
        touched(["format"], "openkcm-receipt/2"),
        touched(["extra"], 1),
        touched(["summary", "extra"], 1),
        swap_event,
        drop_event,
    ],
)
def test_whatever_is_touched_it_proves_nothing_any_more(document, touch):
    changed = json.loads(raw(document))
    touch(changed)
    with pytest.raises(BadReceipt):
        receipt.check(raw(changed), ROOT.public_key)


def test_a_receipt_of_another_trust_root_is_refused(document):
    with pytest.raises(BadReceipt, match="another trust root"):
        receipt.check(raw(document), bytes(32))


def test_there_is_no_receipt_of_what_is_no_revocation():
    ledger, _ = life()
    with pytest.raises(AuditError, match="no revocation"):
        made(ledger, ledger.entries[0][3])
