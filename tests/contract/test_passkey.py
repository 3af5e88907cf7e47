"""Passkeys over the words of a statement: what counts, and everything that looks like it and does not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authenticator import ORIGIN, Authenticator
from openkcm.contract import passkey, seal
from openkcm.contract.errors import SealError
from openkcm.contract.statements import Signature, destroy_statement, different_people, signers

WORDS = destroy_statement("acme", "eu-frankfurt", "approval-0001", 1)
SIGNED = WORDS.signed_bytes()
BOTH = ("ES256", "EdDSA")


@pytest.mark.parametrize("algorithm", BOTH)
def test_a_passkeys_answer_to_the_very_words_counts(algorithm: str) -> None:
    device = Authenticator(algorithm)
    passkey.verify(device.key, device.sign(SIGNED), SIGNED)
    assert passkey.read_key(device.key) == device.passkey


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": "http://localhost:5691"}, {"origin": "https://evil.example"}, {"rp_id": "evil.example"},
        {"flags": 0x01}, {"flags": 0x04}, {"flags": 0}, {"type": "webauthn.create"}, {"crossOrigin": True},
        {"topOrigin": "https://evil.example"}, {"challenge": ""}, {"challenge": "AAAA"},
    ],
)  # fmt: skip
def test_an_answer_to_another_page_site_or_question_does_not(algorithm: str, wrong: dict) -> None:
    device = Authenticator(algorithm)
    with pytest.raises(SealError):
        passkey.verify(device.key, device.sign(SIGNED, **wrong), SIGNED)


def test_an_answer_does_not_fit_other_words_or_another_key() -> None:
    device, other = Authenticator(), Authenticator()
    with pytest.raises(SealError):
        passkey.verify(device.key, device.sign(SIGNED), SIGNED + b"x")
    with pytest.raises(SealError):
        passkey.verify(other.key, device.sign(SIGNED), SIGNED)
    bare = seal.Signer(bytes(32))
    with pytest.raises(SealError):
        passkey.verify(bare.public_key, device.sign(SIGNED), SIGNED)
    with pytest.raises(SealError):  # a bare signature is no passkey's, though the key be the same
        passkey.verify(device.key, bare.sign(SIGNED), SIGNED)


def test_one_flipped_bit_anywhere_is_refused() -> None:
    device = Authenticator()
    good = device.sign(SIGNED)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1
        with pytest.raises(SealError):
            passkey.verify(device.key, bytes(bad), SIGNED)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_a_seal_error(raw: bytes) -> None:
    for call in (passkey.whose, lambda k: passkey.verify(k, raw, b"words")):
        try:
            call(raw)
        except SealError:
            continue
        assert len(raw) == seal.PUBLIC_KEY_BYTES


def test_two_names_or_two_sites_of_one_key_are_one_person() -> None:
    device = Authenticator()
    elsewhere = msgspec.structs.replace(device.passkey, origin="http://localhost:1", credential=bytes(16)).packed()
    assert different_people([device.key, elsewhere]) == 1
    assert different_people([device.key, Authenticator().key, b"x"]) == 2
    raw = device.sign(SIGNED)
    moved = Authenticator()
    moved.private, moved.origin = device.private, "http://localhost:1"
    given_ = [Signature(person="anna", signature=raw), Signature(person="ben", signature=moved.sign(SIGNED))]
    assert len(signers(WORDS, given_, {"anna": device.key, "ben": elsewhere})) == 1
    ben = Authenticator("EdDSA", origin=ORIGIN)
    given_ = [Signature(person="anna", signature=raw), Signature(person="ben", signature=ben.sign(SIGNED))]
    assert signers(WORDS, given_, {"anna": device.key, "ben": ben.key}) == {"anna", "ben"}
