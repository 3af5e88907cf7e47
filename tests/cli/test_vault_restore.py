"""What a restore leaves out: key versions under an emergency floor, and everything of a destroyed residence."""

from __future__ import annotations

from openkcm.cli.vault import _without_ended
from openkcm.contract.decrees import RootReference
from openkcm.execution.keyring import SEALED_KEY_BYTES, FenceRecord, L2Record, L3Record, RingRecord
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import Residence, State
from openkcm.execution.roots.base import Wrapped

REG, OTHER = "reg-acme-payments", "reg-acme-ledger"
ID, SEALED = "0" * 32, bytes(SEALED_KEY_BYTES)


def state(**how) -> State:
    held = {"acme": Residence(tenant="acme", **how)}
    return State(node="n", region="eu-frankfurt", boot_id="b", trust_root=bytes(32), residences=held)


def ring(l2, l3) -> RingRecord:
    return RingRecord(tenant="acme", region="eu-frankfurt", approvers_hash="0" * 64, l2=l2, l3=l3)


def l2(version: int) -> L2Record:
    root = RootReference(provider="file", ref="/k")
    return L2Record(
        id=ID, version=version, root=root, wrapped=Wrapped(ciphertext=b"c", root_version="v1"), sealed=SEALED
    )


def l3(version: int, under: int = 2, registration: str = REG) -> L3Record:
    return L3Record(id=ID, registration=registration, version=version, l2_version=under, sealed=SEALED)


def thing(version: int, registration: str = REG) -> ObjectRecord:
    return ObjectRecord(uid="o", registration=registration, object_type=2, state=2, l3_version=version, wrapped=b"w",
                        attributes=b"")  # fmt: skip


def test_versions_under_an_emergency_floor_are_not_written_back():
    now = state(floors={"L2/": 2, f"L3/{REG}": 3})
    for record in (l2(1), l3(2), l3(3, under=1), thing(2)):
        assert _without_ended(record, "acme", now) is None
    for record in (l2(2), l3(3), l3(1, registration=OTHER), thing(3), thing(1, OTHER), FenceRecord(tenant="acme")):
        assert _without_ended(record, "acme", now) == record
    found = _without_ended(ring({1: ID, 2: "1" * 32}, {REG: {2: ID, 3: "2" * 32}, OTHER: {1: ID}}), "acme", now)
    assert found == ring({2: "1" * 32}, {REG: {3: "2" * 32}, OTHER: {1: ID}})


def test_of_a_destroyed_residence_its_fence_alone_is_written_back():
    now = state(destroyed=True)
    for record in (l2(1), l3(1), thing(1), ring({1: ID}, {})):
        assert _without_ended(record, "acme", now) is None
    assert _without_ended(FenceRecord(tenant="acme", destroyed=True), "acme", now) is not None
    assert _without_ended(l2(1), "bolt", now) == l2(1)
