"""The keyring: what binds a sealed key, what breaks it, and that a failure leaves zeros."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from openkcm.contract.decrees import RootReference
from openkcm.execution import keyring
from openkcm.execution.arena import KeyArena
from openkcm.execution.keyring import FenceRecord, KeyContext, L2Record, L3Record, RingRecord
from openkcm.execution.roots.base import Canary, Wrapped

ROOT = RootReference(provider="file", ref="acme.keys", credential="one")
HASH = "ab" * 32
ID = "0123456789abcdef" * 2
WRAPPED = Wrapped(
    ciphertext=b"c", root_version="v1", canary=Canary(ciphertext=b"x", root_version="v1", digest=bytes(32))
)
L2_CONTEXT = keyring.l2_context("acme", "eu-frankfurt", 1, ID, ROOT, HASH)
L3_CONTEXT = keyring.l3_context("acme", "eu-frankfurt", "reg-00000001", 1, ID)


@pytest.fixture
def cells() -> list[memoryview]:
    arena = KeyArena(cells=8)
    return [arena.view(arena.allocate()) for _ in range(4)]


def _seal(cells: list[memoryview]) -> tuple[L2Record, L3Record]:
    kek, l2, l3, _ = cells
    for view in (kek, l2, l3):
        keyring.generate(view)
    return (
        keyring.seal_l2(l2, kek, L2_CONTEXT, ROOT, WRAPPED, version=1, record_id=ID),
        keyring.seal_l3(l3, l2, L3_CONTEXT, registration="reg-00000001", version=1, record_id=ID, l2_version=1),
    )


def test_each_level_unseals_under_the_one_above_and_nothing_else(cells: list[memoryview]) -> None:
    kek, l2, l3, out = cells
    two, three = _seal(cells)
    keyring.unseal_l2(two, kek, L2_CONTEXT, out)
    assert out == l2
    keyring.unseal_l3(three, l2, L3_CONTEXT, out)
    assert out == l3
    for record, wrong in ((three, kek), (three, l3)):
        with pytest.raises(keyring.Tampered):
            keyring.unseal_l3(record, wrong, L3_CONTEXT, out)
        assert bytes(out) == bytes(32)


@pytest.mark.parametrize("field", KeyContext.__struct_fields__)
def test_every_field_of_the_context_binds(cells: list[memoryview], field: str) -> None:
    key, wrapping, out, _ = cells
    keyring.generate(key)
    keyring.generate(wrapping)
    context = KeyContext(
        tenant="a",
        region="b",
        level="L4",
        version=1,
        record="c",
        registration="d",
        root="e",
        approvers="f",
        attributes="g",
    )
    other = replace(context, **{field: 2 if field == "version" else "other"})
    sealed = keyring.seal(key, wrapping, context.aad())
    with pytest.raises(keyring.Tampered):
        keyring.unseal(sealed, wrapping, other.aad(), out)
    keyring.unseal(sealed, wrapping, context.aad(), out)
    assert out == key
    assert context.encryption_context() != other.encryption_context()


def test_absent_and_empty_are_two_contexts() -> None:
    assert replace(L3_CONTEXT, root="").aad() != L3_CONTEXT.aad()
    assert replace(L3_CONTEXT, tenant="acmee", region="u-frankfurt").aad() != L3_CONTEXT.aad()


def test_a_record_for_something_else_is_refused_before_any_key_is_touched(cells: list[memoryview]) -> None:
    kek, l2, _, out = cells
    two, three = _seal(cells)
    out[:] = b"\x01" * 32
    for record in (
        replace(two, version=2),
        replace(two, id="f" * 32),
        replace(two, root=replace(ROOT, ref="bolt.keys")),
    ):
        with pytest.raises(keyring.WrongContext):
            keyring.unseal_l2(record, kek, L2_CONTEXT, out)
    for l3 in (replace(three, version=2), replace(three, id="f" * 32), replace(three, registration="reg-00000002")):
        with pytest.raises(keyring.WrongContext):
            keyring.unseal_l3(l3, l2, L3_CONTEXT, out)
    assert bytes(out) == b"\x01" * 32


def test_other_approvers_or_another_root_cannot_unseal_l2(cells: list[memoryview]) -> None:
    kek, _, _, out = cells
    two, _ = _seal(cells)
    forged = keyring.l2_context("acme", "eu-frankfurt", 1, ID, ROOT, "cd" * 32)
    with pytest.raises(keyring.Tampered):
        keyring.unseal_l2(two, kek, forged, out)


def test_a_rewrap_changes_the_wrapping_and_nothing_else(cells: list[memoryview]) -> None:
    kek, l2, _, out = cells
    two, _ = _seal(cells)
    renewed = replace(two, wrapped=replace(WRAPPED, root_version="v2"))
    keyring.unseal_l2(renewed, kek, L2_CONTEXT, out)
    assert out == l2


@given(st.integers(0, keyring.SEALED_KEY_BYTES - 1), st.integers(1, 255))
def test_any_flipped_byte_is_tampering_and_leaves_zeros(where: int, flip: int) -> None:
    key, wrapping, out = (memoryview(bytearray(32)) for _ in range(3))
    keyring.generate(key)
    keyring.generate(wrapping)
    sealed = bytearray(keyring.seal(key, wrapping, b"context"))
    sealed[where] ^= flip
    with pytest.raises(keyring.Tampered):
        keyring.unseal(bytes(sealed), wrapping, b"context", out)
    assert bytes(out) == bytes(32)


def test_nothing_is_sealed_or_unsealed_under_a_wiped_key(cells: list[memoryview]) -> None:
    key, wiped, out, _ = cells
    keyring.generate(key)
    for act in (lambda: keyring.seal(key, wiped, b""), lambda: keyring.unseal(bytes(60), wiped, b"", out)):
        with pytest.raises(keyring.KeyringError, match="zeros"):
            act()


@pytest.mark.parametrize("size", [0, 59, 61])
def test_sizes_that_do_not_fit_change_nothing(cells: list[memoryview], size: int) -> None:
    _, wrapping, out, _ = cells
    keyring.generate(wrapping)
    out[:] = b"\x07" * 32
    with pytest.raises(keyring.KeyringError):
        keyring.unseal(bytes(size), wrapping, b"", out)
    assert bytes(out) == b"\x07" * 32
    with pytest.raises(keyring.KeyringError):
        keyring.generate(memoryview(bytearray(31)))


RECORDS = [
    RingRecord(
        tenant="acme", region="eu-frankfurt", approvers_hash=HASH, l2={1: ID}, l3={"reg-00000001": {1: ID, 2: ID}}
    ),
    L2Record(id=ID, version=3, root=ROOT, wrapped=WRAPPED, sealed=bytes(60)),
    L3Record(id=ID, registration="reg-00000001", version=1, l2_version=3, sealed=bytes(60)),
    FenceRecord(tenant="acme", revocations={1: (7, "00000000-0000-8000-8000-000000000000")}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_records_survive_the_vaults_json_and_refuse_what_they_do_not_know(record: msgspec.Struct) -> None:
    raw = msgspec.json.encode(record)
    assert msgspec.json.decode(raw, type=type(record)) == record
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(raw[:-1] + b',"more":1}', type=type(record))
