"""A key that stays in the scratch page for messages that came at the same time (ADR 0063)."""

from __future__ import annotations

import sys

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from execution.kmip_client import GCM
from openkcm.execution.arena import Gate
from openkcm.execution.bench import KEPT_MESSAGES
from openkcm.execution.operations import call
from openkcm.kmip.enums import QueryFunction, ResultReason, ResultStatus, RevocationReasonCode
from openkcm.kmip.payloads.cryptography import DecryptRequest, EncryptRequest
from openkcm.kmip.payloads.lifecycle import DestroyRequest, RevokeRequest
from openkcm.kmip.payloads.server import QueryRequest
from openkcm.kmip.structures import RevocationReason


class Turn:
    """The loop's turn: what is to be called when it is over."""

    def __init__(self, inside):
        self.inside, self.due = inside, []
        inside.bench.soon = self.due.append

    def end(self):
        due, self.due[:] = list(self.due), []
        for one in due:
            one()

    @property
    def odd(self):
        return bool(self.inside.board.counter(0) & 1)

    @property
    def empty(self):
        return bytes(self.inside.scratch) == bytes(len(self.inside.scratch))


@pytest.fixture
def turn(inside):
    return Turn(inside)


@pytest.fixture
def unwrapped(monkeypatch):
    """Count unwraps."""
    found = []

    class Counting:
        def __init__(self, key):
            self._cipher = AESGCM(key)

        def decrypt_into(self, *given):
            found.append(given)
            return self._cipher.decrypt_into(*given)

        def __getattr__(self, name):
            return getattr(self._cipher, name)

    monkeypatch.setattr(call, "AESGCM", Counting)
    return found


def encrypt(uid):
    return EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)


def test_messages_that_came_together_unwrap_a_key_once_and_the_custodian_waits_for_them(inside, turn, unwrapped):
    uid = inside.new_key()
    turn.end()
    unwrapped.clear()
    for _ in range(3):
        assert inside.item(encrypt(uid)).status == ResultStatus.SUCCESS
        assert turn.odd
    assert len(unwrapped) == 1
    turn.end()
    assert turn.empty
    assert not turn.odd


def test_their_cipher_goes_with_the_key(inside, turn):
    """It holds a schedule made of the key, in memory like any other."""
    uid = inside.new_key()
    turn.end()
    inside.item(encrypt(uid))
    cipher = inside.bench.gcm
    inside.item(encrypt(uid))
    assert inside.bench.gcm is cipher
    held = sys.getrefcount(cipher)
    turn.end()
    assert inside.bench.gcm is None
    assert sys.getrefcount(cipher) == held - 1  # only this test's own: it was nowhere else


def test_a_cipher_is_only_for_its_own_object(inside, turn):
    one, other = inside.new_key(), inside.new_key()
    sealed = [(uid, inside.item(encrypt(uid)).payload) for uid in (one, other, one)]
    turn.end()
    for uid, out in sealed:
        asked = DecryptRequest(
            unique_identifier=uid, data=out.data, iv_counter_nonce=out.iv_counter_nonce,
            authenticated_encryption_tag=out.authenticated_encryption_tag, cryptographic_parameters=GCM,
        )  # fmt: skip
        assert inside.item(asked).payload.data == b"x"
        turn.end()


def test_so_many_messages_at_most(inside, turn, unwrapped):
    uid = inside.new_key()
    turn.end()
    unwrapped.clear()
    for _ in range(KEPT_MESSAGES):
        inside.item(encrypt(uid))
    assert turn.empty
    assert not turn.odd
    inside.item(encrypt(uid))
    assert len(unwrapped) == 2
    assert len(turn.due) == 1


@pytest.mark.parametrize("gate", [Gate.REVOKED, Gate.LOCKED, Gate.SUSPENDED])
def test_a_gate_that_closes_in_between_refuses_the_next_message_though_the_key_is_there(inside, turn, gate):
    uid = inside.new_key()
    assert inside.item(encrypt(uid)).status == ResultStatus.SUCCESS
    assert not turn.empty
    inside.close(gate)
    assert inside.item(encrypt(uid)).reason == ResultReason.PERMISSION_DENIED
    turn.end()
    assert turn.empty


def test_an_older_version_that_is_withdrawn_in_between_refuses_though_the_key_is_there(inside, turn):
    uid = inside.new_key()
    inside.rotate(2)
    inside.caller.system.ring = None
    assert inside.item(encrypt(uid)).status == ResultStatus.SUCCESS
    assert not turn.empty
    inside.arena.close_gates([inside.versions[1]], Gate.LOCKED)
    assert inside.item(encrypt(uid)).reason == ResultReason.PERMISSION_DENIED


def test_an_object_that_is_destroyed_in_between_is_not_used_though_its_key_is_there(inside, turn):
    uid = inside.new_key()
    inside.item(encrypt(uid))
    assert not turn.empty
    stopped = RevocationReason(revocation_reason_code=RevocationReasonCode.CESSATION_OF_OPERATION)
    inside.item(RevokeRequest(unique_identifier=uid, revocation_reason=stopped))
    inside.item(DestroyRequest(unique_identifier=uid))
    assert inside.item(encrypt(uid)).status == ResultStatus.OPERATION_FAILED


def test_another_objects_key_takes_its_place(inside, turn, unwrapped):
    one, other = inside.new_key(), inside.new_key(bits=128)
    turn.end()
    unwrapped.clear()
    for uid in (one, other, one):
        assert inside.item(encrypt(uid)).status == ResultStatus.SUCCESS
    assert len(unwrapped) == 3
    turn.end()
    assert turn.empty


def test_what_needs_no_key_neither_ends_it_nor_leaves_the_counter_even(inside, turn):
    uid = inside.new_key()
    inside.item(encrypt(uid))
    inside.item(QueryRequest(query_function=(QueryFunction.QUERY_OPERATIONS,)))
    assert turn.odd
    turn.end()
    assert not turn.odd


def test_what_is_more_than_a_symmetric_key_is_wiped_at_once(inside, turn):
    uid = inside.new_key()
    inside.item(encrypt(uid))
    inside.bench.enter()
    assert inside.bench.room(64) is not None
    inside.bench.leave()
    assert turn.empty
    assert not turn.odd


def test_whoever_takes_long_ends_it(inside, turn):
    uid = inside.new_key()
    inside.item(encrypt(uid))
    inside.bench.let_go()
    assert turn.empty
    assert not turn.odd
    turn.end()
    assert not turn.odd
