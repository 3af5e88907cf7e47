"""What an exchange does when the gate, the lease or a record changes in the middle of an operation."""

from __future__ import annotations

import msgspec
import pytest

from execution.in_process import HOUR_NS
from execution.kmip_client import GCM, create_request
from openkcm.execution.arena import Gate
from openkcm.execution.clock import boottime_ns
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.enums import ResultReason, ResultStatus
from openkcm.kmip.payloads.cryptography import EncryptRequest
from openkcm.kmip.payloads.lifecycle import ActivateRequest


def during(code, what, *, before=False, bad=None):
    """Return OPERATIONS where `what` happens inside one operation, after (or before) its work."""
    row = OPERATIONS[code]

    def handler(call, asked):
        if before:
            what()
        answer = row.handler(call, asked)
        if not before:
            what()
        if bad is not None:
            raise bad
        return answer

    return {**OPERATIONS, code: msgspec.structs.replace(row, handler=handler)}


def encrypt(uid):
    return EncryptRequest(unique_identifier=uid, data=b"x", cryptographic_parameters=GCM)


CHANGES = {
    "revoked": (lambda i: i.close(), ResultReason.PERMISSION_DENIED, "access revoked"),
    "removed": (
        lambda i: i.arena.close_workloads([i.word]),
        ResultReason.PERMISSION_DENIED,
        "access revoked",
    ),
    "suspended": (
        lambda i: i.arena.close_gates(i.versions.values(), Gate.SUSPENDED),
        ResultReason.PERMISSION_DENIED,
        "access suspended: nothing new is encrypted, reads go on",
    ),
    "reopened": (
        lambda i: i.arena.raise_generation(i.versions[1]),
        ResultReason.PERMISSION_DENIED,
        "access revoked",
    ),
    "lease over": (lambda i: i.arena.set_lease(i.versions[1], boottime_ns()), ResultReason.GENERAL_FAILURE, None),
    "custodian stale": (lambda i: i.arena.set_alive(boottime_ns()), ResultReason.GENERAL_FAILURE, None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_inside_an_operation_takes_its_answer_back(inside, change):
    what, reason, message = CHANGES[change]
    uid = inside.new_key()
    assert inside.item(encrypt(uid)).status == ResultStatus.SUCCESS
    item = inside.item(encrypt(uid), operations=during(Code.ENCRYPT, lambda: what(inside)))
    assert (item.reason, item.payload) == (reason, None)
    assert message in (None, item.message)


@pytest.mark.parametrize("before", [True, False])
def test_whatever_goes_wrong_while_the_gate_closes_is_revoked(inside, before):
    """Zeroized in the middle, a key does not unwrap: the client hears why."""
    uid = inside.new_key()
    table = during(Code.ENCRYPT, inside.close, before=before, bad=None if before else RuntimeError("in between"))
    item = inside.item(encrypt(uid), operations=table)
    assert (item.reason, item.message) == (ResultReason.PERMISSION_DENIED, "access revoked")


def test_what_goes_wrong_with_an_open_gate_is_a_general_failure_that_says_nothing_else(inside, caplog):
    uid = inside.new_key()
    table = during(Code.ENCRYPT, lambda: None, bad=RuntimeError("in between"))
    item = inside.item(encrypt(uid), operations=table)
    assert item.reason == ResultReason.GENERAL_FAILURE
    assert "in between" not in item.message


def test_an_object_wrapped_while_its_key_goes_is_never_stored(inside):
    row = OPERATIONS[Code.CREATE]

    def handler(call, asked):
        work = row.handler(call, asked)
        wish = next(work)
        inside.close()
        yield wish

    table = {**OPERATIONS, Code.CREATE: msgspec.structs.replace(row, handler=handler)}
    item = inside.item(create_request(), operations=table)
    assert item.message == "access revoked"
    assert not inside.puts


def test_an_object_wrapped_while_its_key_is_rotated_is_wrapped_again_under_the_new_one(inside):
    row = OPERATIONS[Code.CREATE]
    rotated = []

    def handler(call, asked):
        work = row.handler(call, asked)
        wish = next(work)
        if not rotated:
            rotated.append(True)
            inside.rotate(2)
        sequence = yield wish
        try:
            work.send(sequence)
        except StopIteration as end:
            return end.value

    table = {**OPERATIONS, Code.CREATE: msgspec.structs.replace(row, handler=handler)}
    assert inside.item(create_request(), operations=table).status == ResultStatus.SUCCESS
    assert [p.record.l3_version for p in inside.puts] == [2]


def test_a_rotation_inside_an_encryption_harms_nothing(inside):
    uid = inside.new_key()
    item = inside.item(encrypt(uid), operations=during(Code.ENCRYPT, lambda: inside.rotate(2)))
    assert item.status == ResultStatus.SUCCESS
    assert inside.item(encrypt(uid)).status == ResultStatus.SUCCESS


def test_an_update_refused_twice_fails_and_says_so(inside):
    made = inside.item(create_request()).payload.unique_identifier
    inside.refuse = ["conflict", "conflict"]
    item = inside.item(ActivateRequest(unique_identifier=made))
    assert item.reason == ResultReason.GENERAL_FAILURE
    assert len(inside.puts) == 3
    inside.refuse = ["conflict"]
    assert inside.item(ActivateRequest(unique_identifier=made)).status == ResultStatus.SUCCESS


@pytest.mark.parametrize("code", ["unavailable", "revoked", "full", "invalid", "of the future"])
def test_each_refusal_of_the_custodian_is_an_answer(inside, code):
    inside.refuse = [code]
    assert inside.item(create_request()).status == ResultStatus.OPERATION_FAILED


def test_the_scratch_page_is_empty_after_a_message(inside):
    uid = inside.new_key()
    inside.item(encrypt(uid))
    assert bytes(inside.scratch) == bytes(len(inside.scratch))


def test_one_message_unwraps_an_object_once(inside, monkeypatch):
    uid = inside.new_key()
    seen = []

    def held():
        seen.append(inside.bench.held)

    items = inside.items(*[encrypt(uid)] * 3, operations=during(Code.ENCRYPT, held))
    assert [i.status for i in items] == [ResultStatus.SUCCESS] * 3
    assert len(set(map(id, seen))) == 1
    ivs = {i.payload.iv_counter_nonce for i in items}
    assert len(ivs) == 3


def test_a_system_without_keys_is_asked_for_and_refused_as_cold(inside):
    uid = inside.new_key()
    inside.versions.clear()
    inside.caller.system.ring = None
    item = inside.item(encrypt(uid))
    assert item.reason == ResultReason.GENERAL_FAILURE


def test_a_slot_given_to_somebody_else_is_never_used(inside):
    """The generation in the word is not the one that the custodian named."""
    uid = inside.new_key()
    slot = inside.versions[1]
    inside.arena.close_gates([slot])
    inside.arena.release(slot)
    taken = inside.arena.allocate()
    while taken != slot:
        taken = inside.arena.allocate()
    inside.arena.slot_view(slot)[:] = b"k" * 32
    inside.arena.set_lease(slot, boottime_ns() + HOUR_NS)
    inside.arena.set_gate(slot, Gate.OPEN)
    inside.versions.clear()
    stored = len(inside.puts)
    assert inside.item(encrypt(uid)).message.startswith("the keys are not available")
    assert inside.item(create_request()).reason == ResultReason.GENERAL_FAILURE
    assert len(inside.puts) == stored


def test_an_operation_whose_keys_gave_way_to_others_is_done_anew_when_they_are_back(inside):
    uid, moved = inside.new_key(), []

    def give_way():
        if moved:
            return
        old = inside.versions[1]
        key = bytes(inside.arena._key(old))
        moved.append(old)
        inside.arena.close_gates([old], Gate.COLD)
        inside.arena.release(old)
        new = inside.versions[1] = inside.arena.allocate()
        inside.arena.slot_view(new)[:] = key
        inside.arena.set_lease(new, boottime_ns() + HOUR_NS)
        inside.arena.set_gate(new, Gate.OPEN)

    item = inside.item(encrypt(uid), operations=during(Code.ENCRYPT, give_way))
    assert item.status == ResultStatus.SUCCESS
    assert moved
