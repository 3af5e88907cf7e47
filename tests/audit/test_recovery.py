"""What a lost ledger is made of again: nothing sealed is dropped in silence, nothing false comes in."""

from __future__ import annotations

import msgspec
import pytest

from governance_ledger import EU, TRUST, US, Ledger, Stored
from openkcm.audit.recovery import CannotRestore, Copy, plan
from openkcm.audit.verify import TrustedLedger
from openkcm.cli import backup
from openkcm.contract import decrees as d
from openkcm.contract import subjects

R = subjects.residence_aggregate


def script() -> Ledger:
    """Two residences, a tenant's own events, and a tail with a revocation at its end."""
    ledger = Ledger()
    for region in (EU, US):
        ledger.add(R(region, "acme"), d.TenantConfigurationUpdated(lease_s=60))
    ledger.add(subjects.tenant_aggregate("acme"), d.TenantRegionsAssigned(regions=(EU, US)))
    for n in range(3):
        ledger.add(R(EU, "acme"), d.TenantConfigurationUpdated(lease_s=70 + n))
        ledger.add(subjects.tenant_aggregate("acme"), d.TenantRegionsAssigned(regions=(EU,)))
    ledger.add(R(US, "acme"), d.AccessRevoked(reason="ordered"))
    return ledger


def mirror(ledger: Ledger, region: str) -> Copy:
    of = (f"kcm.decree.{region}.", "kcm.decree.global._.")
    return Copy(name=region, messages=[m for m in ledger.messages if m.subject.startswith(of)])


def test_tails_of_mirrors_go_behind_the_backup_and_what_nobody_holds_is_named() -> None:
    ledger = script()
    known = {m.sequence: f"on {m.subject}" for m in ledger.messages}
    done = plan(
        ledger.messages[:6], [mirror(ledger, EU), mirror(ledger, US)], TRUST.public_key, known=known, last_known=12
    )
    assert done.recovered == {EU: 2, US: 1}
    lost = [m for m in ledger.messages[6:] if ".global." in m.subject]
    assert [x.sequence for x in done.lost] == [m.sequence for m in lost]
    assert all("tenant" in x.what for x in done.lost)
    assert [m.sequence for m in done.events] == [m.sequence for m in ledger.messages if m not in lost]
    assert (done.epoch, done.first_sequence) == (2, 2 << 40)
    words = " / ".join(done.words())
    assert f"recovered 2 events behind it from {EU}" in words
    assert f"lost {lost[0].sequence}: on {lost[0].subject}" in words
    whole = Copy(name="governance's read model", messages=ledger.messages)
    everything = plan(ledger.messages[:6], [mirror(ledger, EU), whole], TRUST.public_key, known=known, last_known=12)
    assert everything.lost == ()
    assert everything.words()[-1] == "nothing known is lost"


def test_what_is_made_is_a_ledger_that_verifies_from_its_new_first_sequence() -> None:
    ledger = script()
    done = plan(ledger.messages[:6], [mirror(ledger, EU), mirror(ledger, US)], TRUST.public_key, last_known=12)
    trusted = TrustedLedger(TRUST.public_key)
    for n, event in enumerate(done.events):
        trusted.add(done.first_sequence + n, event.subject, event.body, event.id)
    opened = ledger.add(
        subjects.ledger_aggregate(),
        d.LedgerOpened(epoch=2, first_sequence=2 << 40, closes=done.words()), signer=TRUST, epoch=2,
    )  # fmt: skip
    body = ledger.messages[-1].body
    trusted.add(done.first_sequence + len(done.events), opened.subject, body, opened.id)
    assert trusted.epoch == 2


def test_a_restored_ledger_is_restored_again_from_a_backup_of_the_epoch_before() -> None:
    ledger = script()
    first = plan(ledger.messages[:6], [Copy(name="all", messages=ledger.messages)], TRUST.public_key)
    again = [
        Stored(first.first_sequence + n, event.subject, event.body, event.id) for n, event in enumerate(first.events)
    ]
    ledger.add(subjects.ledger_aggregate(), d.LedgerOpened(epoch=2, first_sequence=2 << 40), signer=TRUST, epoch=2)
    ledger.add(R(EU, "acme"), d.AccessSuspended(reason="late"), epoch=2)
    later = [
        msgspec.structs.replace(m, sequence=first.first_sequence + len(again) + n)
        for n, m in enumerate(ledger.messages[-2:])
    ]
    region = Copy(name=EU, messages=[*mirror(ledger, EU).messages[:-2], *again, *later])
    second = plan(ledger.messages[:6], [region], TRUST.public_key)
    assert second.epoch == 3
    assert len(second.events) == len(ledger.messages)
    assert second.lost == (), "no gap is counted between two epochs"


def test_a_restore_that_was_cut_off_leaves_its_epoch_out_and_the_trust_root_says_so() -> None:
    ledger = script()
    first = plan(ledger.messages[:6], [Copy(name="all", messages=ledger.messages)], TRUST.public_key)
    begun = [
        Stored(first.first_sequence + n, event.subject, event.body, event.id)
        for n, event in enumerate(first.events[:9])
    ]  # and no opening
    copies = [Copy(name="the hub", messages=begun), Copy(name=EU, messages=[*mirror(ledger, EU).messages, *begun[:4]])]
    again = plan(ledger.messages[:6], copies, TRUST.public_key, last_known=len(ledger.messages))
    assert (again.epoch, again.opened) == (3, 1)
    assert again.words()[0].startswith("epochs 1 to 2 closed; backup")
    trusted = TrustedLedger(TRUST.public_key)
    for n, event in enumerate(again.events):
        trusted.add(again.first_sequence + n, event.subject, event.body, event.id)
    opening = d.LedgerOpened(epoch=3, first_sequence=again.first_sequence, closes=again.words())
    opened = ledger.add(subjects.ledger_aggregate(), opening, signer=TRUST, epoch=3)
    trusted.add(again.first_sequence + len(again.events), opened.subject, ledger.messages[-1].body, opened.id)
    assert trusted.epoch == 3


def test_two_histories_and_forged_or_damaged_copies_stop_it() -> None:
    ledger, other = script(), script()
    other.messages[8] = msgspec.structs.replace(other.messages[8], body=other.messages[8].body)
    with pytest.raises(CannotRestore, match="two histories"):
        plan(ledger.messages[:6], [mirror(ledger, EU), mirror(other, EU)], TRUST.public_key)
    bad = ledger.messages[7]
    forged = msgspec.structs.replace(bad, body=bad.body.replace(b'"lease_s":71', b'"lease_s":81'))
    assert forged != bad
    torn = [forged if m is bad else m for m in ledger.messages]
    with pytest.raises(CannotRestore, match="nobody sealed"):
        plan(ledger.messages[:6], [Copy(name="x", messages=torn)], TRUST.public_key)
    with pytest.raises(CannotRestore, match="not whole"):
        plan([*ledger.messages[:3], *ledger.messages[4:6]], [], TRUST.public_key)
    with pytest.raises(CannotRestore, match="empty"):
        plan([], [], TRUST.public_key)


def test_a_routine_event_behind_a_gap_is_named_and_a_critical_one_stops_everything() -> None:
    ledger = script()
    eu = mirror(ledger, EU)
    gone = next(m for m in eu.messages if m.sequence > 6)
    thinned = Copy(name=EU, messages=[m for m in eu.messages if m is not gone])
    done = plan(ledger.messages[:6], [thinned, mirror(ledger, US)], TRUST.public_key, last_known=12)
    assert {x.sequence for x in done.lost} >= {gone.sequence}
    assert any("nobody holds" in x.what for x in done.lost)
    ledger.add(R(US, "acme"), d.AccessRevoked(reason="again"))
    us = mirror(ledger, US)
    revocations = [m for m in us.messages if ".critical.residence." in m.subject]
    without = Copy(name=US, messages=[m for m in us.messages if m is not revocations[0]])
    with pytest.raises(CannotRestore, match="is critical and would be left out"):
        plan(ledger.messages[:6], [eu, without], TRUST.public_key)


def test_a_backup_comes_back_and_a_cut_or_foreign_one_does_not(tmp_path) -> None:
    ledger, path = script(), tmp_path / "ledger.ndjson"
    header = backup.Header(format=backup.FORMAT, ledger="openkcm-1", made_at="now")
    assert backup.write(path, header, ledger.messages) == len(ledger.messages)
    assert [(m.sequence, m.body) for m in backup.read(path, "openkcm-1")] == [
        (m.sequence, m.body) for m in ledger.messages
    ]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for wrong in (whole[:-5], b"".join(lines[:-1]), b"".join(lines[:4] + lines[5:]), b"", b"x\ny\nz\n"):
        path.write_bytes(wrong)
        with pytest.raises(CannotRestore):
            backup.read(path, "openkcm-1")
    path.write_bytes(whole)
    with pytest.raises(CannotRestore, match="not of openkcm-2"):
        backup.read(path, "openkcm-2")
