"""The trusted ledger: whatever is flipped, swapped, dropped, repeated or moved is found where it is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.sealed_ledger import CMK, NODE, REGION, ROOT, TENANT, SealedLedger, whole
from openkcm.audit.verify import BadEvent, TrustedLedger
from openkcm.contract import decrees as d
from openkcm.contract import envelope, subjects
from openkcm.contract.errors import EnvelopeError
from openkcm.contract.seal import Signer

ENTRIES = whole().entries


def verified(entries, **how):
    trusted = TrustedLedger(ROOT.public_key, **how)
    for entry in entries:
        trusted.add(*entry)
    return trusted


def first_bad(entries, **how):
    with pytest.raises(BadEvent) as caught:
        verified(entries, **how)
    return caught.value


def test_a_ledger_as_its_authors_sealed_it_holds():
    trusted = verified(ENTRIES)
    assert (trusted.events, trusted.epoch, trusted.sequence) == (len(ENTRIES), 1, len(ENTRIES))


@given(st.integers(0, len(ENTRIES) - 1), st.data())
def test_a_flipped_bit_is_found_where_it_is(index, data):
    sequence, subject, body, id_ = ENTRIES[index]
    position = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    entries = [*ENTRIES[:index], (sequence, subject, bytes(changed), id_), *ENTRIES[index + 1 :]]
    if readable(bytes(changed)) == envelope.decode(body):  # a bit that JSON does not carry
        verified(entries)
    else:
        assert first_bad(entries).sequence == sequence


def readable(body):
    try:
        return envelope.decode(body)
    except EnvelopeError:
        return None


@given(st.integers(0, len(ENTRIES) - 2))
def test_a_dropped_event_is_missed_at_its_place(index):
    bad = first_bad([*ENTRIES[:index], *ENTRIES[index + 1 :]])
    assert (bad.sequence, bad.code) == (index + 2, "sequence")


@given(st.integers(0, len(ENTRIES) - 2), st.data())
def test_a_dropped_event_is_missed_even_when_the_sequences_are_closed_up(index, data):
    del data
    rest = [(i + 1, *entry[1:]) for i, entry in enumerate([*ENTRIES[:index], *ENTRIES[index + 1 :]])]
    later = [i for i, entry in enumerate(rest) if i >= index and entry[1] == ENTRIES[index][1]]
    if index < 2:  # the opening and the key: nothing holds without them
        assert first_bad(rest).code in {"epoch", "seal", "counter"}
    elif later:
        bad = first_bad(rest)
        assert (bad.sequence, bad.code) == (later[0] + 1, "counter")
    else:  # the last of its aggregate: only the sequence, or another's copy, can tell
        verified(rest)


@given(st.integers(0, len(ENTRIES) - 1), st.integers(0, len(ENTRIES) - 1))
def test_two_swapped_bodies_are_found_at_the_first(one, other):
    if one == other:
        return
    one, other = sorted((one, other))
    entries = list(ENTRIES)
    entries[one] = (ENTRIES[one][0], ENTRIES[one][1], *ENTRIES[other][2:])
    entries[other] = (ENTRIES[other][0], ENTRIES[other][1], *ENTRIES[one][2:])
    assert first_bad(entries).sequence == one + 1


def test_after_a_breach_nothing_more_is_accepted():
    trusted = TrustedLedger(ROOT.public_key)
    with pytest.raises(BadEvent):
        trusted.add(*ENTRIES[1])
    with pytest.raises(BadEvent) as again:
        trusted.add(*ENTRIES[0])
    assert again.value.sequence == 2
    assert trusted.events == 0


def test_an_event_twice_is_found():
    sequence, subject, body, id_ = ENTRIES[-1]
    assert first_bad([*ENTRIES, (sequence + 1, subject, body, id_)]).code == "envelope"
    assert first_bad([*ENTRIES, (sequence, subject, body, id_)]).code == "sequence"


def test_an_event_under_another_id_or_subject_is_found():
    sequence, subject, body, id_ = ENTRIES[-1]
    assert first_bad([*ENTRIES[:-1], (sequence, subject, body, ENTRIES[0][3])]).code == "envelope"
    elsewhere = subject.replace(REGION, "us-virginia")
    assert first_bad([*ENTRIES[:-1], (sequence, elsewhere, body, id_)]).code == "place"


def ledger_with(append):
    ledger = SealedLedger().open()
    append(ledger)
    return first_bad(ledger.entries)


STRANGER = Signer(b"\x07" * 32)
RESIDENCE = subjects.residence_aggregate(REGION, TENANT)
BREACHES = {
    "a stranger's seal": (lambda it: it.residence(d.AccessResumed(), signer=STRANGER), "seal"),
    "a node's seal under a decree": (lambda it: it.residence(d.AccessResumed(), signer=NODE), "seal"),
    "governance enrolling a node": (
        lambda it: it.ledger(
            d.NodeEnrolled(node="x", region=REGION, key=NODE.key_id, public_key=NODE.public_key), signer=CMK
        ),
        "seal",
    ),
    "the trust root ordering a tenant's affairs": (lambda it: it.residence(d.AccessResumed(), signer=ROOT), "seal"),
    "a key under another key's name": (
        lambda it: it.ledger(d.SigningKeyRotated(key=NODE.key_id, public_key=CMK.public_key)), "seal",
    ),
    "a gap in the counter": (lambda it: it.residence(d.AccessResumed(), counter=9), "counter"),
    "a counter twice": (lambda it: it.residence(d.AccessResumed(), counter=1), "counter"),
    "another epoch": (lambda it: it.residence(d.AccessResumed(), epoch=2), "epoch"),
    "an epoch opened a second time": (lambda it: it.ledger(d.LedgerOpened(epoch=1, first_sequence=1)), "epoch"),
    "an epoch left out": (lambda it: it.ledger(d.LedgerOpened(epoch=3, first_sequence=1), epoch=3), "epoch"),
    "another epoch left out than the trust root says": (
        lambda it: it.ledger(d.LedgerOpened(epoch=4, first_sequence=1, closes=("epochs 1 to 2 closed",)), epoch=4),
        "epoch",
    ),
    "a critical event on the routine lane": (lambda it: it.append(RESIDENCE, d.AccessRevoked(reason="x")), "place"),
    "a routine event on the critical lane": (
        lambda it: it.append(RESIDENCE.on("critical"), d.AccessResumed()), "place",
    ),
    "a tenant's event on a residence": (lambda it: it.append(RESIDENCE, d.TenantRegionsAssigned(regions=("x",))), "place"),
    "a residence in no region": (
        lambda it: it.append(subjects.DecreeSubject("global", TENANT, "routine", "residence", TENANT), d.AccessResumed()),
        "place",
    ),
    "a residence under another's id": (
        lambda it: it.append(subjects.DecreeSubject(REGION, TENANT, "routine", "residence", "bolt"), d.AccessResumed()),
        "place",
    ),
    "a critical event that says routine": (
        lambda it: it.residence(d.AccessRevoked(reason="x"), priority="PRIORITY_ROUTINE"), "shape",
    ),
    "an id used before": (lambda it: it.residence(d.AccessResumed(), event=it.entries[0][3]), "envelope"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREACHES)
def test_a_ledger_that_holds(name):
    append, code = BREACHES[name]
    bad = ledger_with(append)
    assert (bad.code, bad.sequence, bad.epoch) == (code, 7, 1)


def test_an_unknown_event_stops_the_audit_instead_of_being_skipped():
    ledger = SealedLedger().open()
    sealed = ledger.residence(d.AccessResumed())
    odd = envelope.seal_envelope(msgspec.structs.replace(sealed, tag="AccessImagined.1"), CMK)
    sequence, subject, _, id_ = ledger.entries[-1]
    assert first_bad([*ledger.entries[:-1], (sequence, subject, envelope.encode(odd), id_)]).code == "shape"


def test_a_retired_key_seals_nothing_more():
    ledger = SealedLedger().open()
    new = Signer(b"\x09" * 32)
    ledger.ledger(d.SigningKeyRotated(key=new.key_id, public_key=new.public_key, retires=(CMK.key_id,)))
    ledger.residence(d.AccessSuspended(reason="x"), signer=new)
    verified(ledger.entries)
    ledger.residence(d.AccessResumed(), signer=CMK)
    assert (first_bad(ledger.entries).code, first_bad(ledger.entries).sequence) == ("seal", 9)


def test_a_new_epoch_counts_from_one_and_its_sequences_begin_apart():
    ledger = SealedLedger().open()
    ledger.epoch = 2
    start = 2 << 40
    ledger.ledger(d.LedgerOpened(epoch=2, first_sequence=start, closes=("epoch 1",)), sequence=start)
    ledger.residence(d.AccessResumed())
    assert verified(ledger.entries).epoch == 2
    assert first_bad([*ledger.entries[:-1], (start + 2, *ledger.entries[-1][1:])]).code == "sequence"


def test_a_slice_may_skip_other_peoples_sequences_but_no_counter():
    ours = [e for e in ENTRIES if e[1].split(".")[3] in {"_", TENANT}]
    gapped = [(2 * sequence, *rest) for sequence, *rest in ours]
    assert verified(gapped, whole=False).events == len(ours)
    routine = [i for i, e in enumerate(gapped) if ".routine.residence." in e[1]]
    assert first_bad([e for i, e in enumerate(gapped) if i != routine[0]], whole=False).code == "counter"
