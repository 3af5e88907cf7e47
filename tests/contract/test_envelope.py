"""The envelope: every field is under the seal, and nothing but an envelope is one."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal
from openkcm.contract.errors import EnvelopeError, PayloadError, SealError, UnknownTag
from openkcm.contract.ids import EventId, pattern_of
from press import Press, seed

PRESS = Press()
SEALED = PRESS.residence("acme", d.AccessRevoked(reason="test"))
BOOK = {PRESS.cmk.key_id: PRESS.cmk.public_key}
OTHER = {
    "id": "00000000-0000-4000-8000-000000000001",
    "tag": "AccessResumed.1",
    "subject": SEALED.subject.replace("acme", "bolt"),
    "counter": SEALED.counter + 1,
    "epoch": SEALED.epoch + 1,
    "actor": env.Actor(issuer="https://other.example", subject="p-ann"),
    "correlation": "00000000-0000-4000-8000-000000000002",
    "causation": "00000000-0000-4000-8000-000000000003",
    "priority": env.PRIORITY_ROUTINE,
    "at_ms": SEALED.at_ms + 1,
    "time_source": "other",
    "key": seed("other").key_id,
    "data": msgspec.Raw(b'{"reason":"tesu"}'),
}


def test_a_sealed_envelope_survives_its_bytes():
    back = env.decode(env.encode(SEALED))
    env.verify(back, SEALED.subject, BOOK)
    assert d.read(back.tag, back.data) == d.AccessRevoked(reason="test")


def test_every_field_has_a_changed_twin_below():
    assert set(OTHER) | {"seal"} == set(env.Envelope.__struct_fields__)


@pytest.mark.parametrize("field", sorted(OTHER))
def test_changing_any_field_breaks_the_seal(field):
    changed = msgspec.structs.replace(SEALED, **{field: OTHER[field]})
    with pytest.raises(SealError):
        env.verify(changed, changed.subject, BOOK | {seed("other").key_id: seed("other").public_key})


def test_the_same_bytes_under_another_subject_are_not_this_event():
    with pytest.raises(SealError, match="found under"):
        env.verify(SEALED, SEALED.subject.replace("acme", "bolt"), BOOK)


def test_an_unknown_key_is_no_author():
    with pytest.raises(SealError, match="unknown key"):
        env.verify(SEALED, SEALED.subject, {})


@given(st.binary(max_size=600))
def test_arbitrary_bytes_raise_only_the_treatys_own_error(raw):
    with pytest.raises(EnvelopeError):
        env.decode(raw)


@given(st.integers(0, len(env.encode(SEALED)) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_an_error_or_a_broken_seal(position, flip):
    raw = bytearray(env.encode(SEALED))
    raw[position] ^= flip
    try:
        back = env.decode(bytes(raw))
        env.verify(back, back.subject, BOOK)
    except (EnvelopeError, SealError):
        return
    assert env.encode(back) == env.encode(SEALED)  # nothing but the same event verifies


def test_an_unknown_field_is_refused():
    raw = env.encode(SEALED).replace(b'{"id"', b'{"extra":1,"id"', 1)
    with pytest.raises(EnvelopeError):
        env.decode(raw)


UUID = SEALED.id
ODD_IDS = (
    UUID, UUID.upper(), UUID[:-1], f"{UUID}0", f"{UUID}\n", f"{UUID} {UUID}", UUID.replace("-", " "), f" {UUID[:-1]}", "",
    UUID.replace("-", "0"), f"0{UUID[:-1]}-", UUID.replace("0", "\u0660"), "!" * 36, "g" + UUID[1:],
)  # fmt: skip


@pytest.mark.parametrize("field", ["id", "correlation", "causation"])
@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_id_is_what_its_pattern_says(field, odd):
    raw = msgspec.json.encode(msgspec.structs.replace(SEALED, **{field: odd}))
    if re.fullmatch(pattern_of(EventId), odd):
        assert getattr(env.decode(raw), field) == odd
    else:
        with pytest.raises(EnvelopeError, match="no UUID"):
            env.decode(raw)


def test_two_ids_in_one_are_no_id_and_a_space_more():
    raw = msgspec.json.encode(msgspec.structs.replace(SEALED, id=f"{UUID} {UUID}", correlation="", causation=None))
    with pytest.raises(EnvelopeError, match="no UUID"):
        env.decode(raw)


def test_an_unknown_tag_and_a_misfit_are_told_apart():
    with pytest.raises(UnknownTag):
        d.read("AccessRevoked.9", b"{}")
    with pytest.raises(PayloadError):
        d.read("AccessRevoked.1", b'{"reason":"NOT A CODE"}')


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=8), st.binary(max_size=8))),
    st.lists(st.one_of(st.none(), st.text(max_size=8), st.binary(max_size=8))),
)
def test_canonical_bytes_of_different_fields_differ(a, b):
    def plain(fields):
        return [f.encode() if isinstance(f, str) else f for f in fields]

    assert (seal.canonical("d", *a) == seal.canonical("d", *b)) == (plain(a) == plain(b))
