"""How keys are sealed for the vault: contexts, records, and the ciphers on arena views. No bus, no file, no KMS.

A key is never `bytes` here: it is generated into a view, sealed from a view, unsealed into a view; a cipher lives for
one call. L2 is sealed under a KEK that only the customer's root can unwrap; L3 under L2; L4 (a managed object) under
L3; each with AES-256-GCM and, as additional data, the canonical bytes of everything the key is for. Two contexts that
differ in one field never unseal each other's keys. Sealed = nonce 12 bytes | ciphertext | tag 16 bytes.
Source: NIST SP 800-38D.

KeyringError
├── WrongContext  a record that says itself it is for something else
└── Tampered      it does not unseal: another key, another context, or changed bytes (the cipher cannot tell which)
"""

from __future__ import annotations

import os
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Meta

from openkcm.contract.decrees import RootReference
from openkcm.contract.ids import EventId, NodeName, Region, TenantId
from openkcm.contract.seal import canonical
from openkcm.execution import registers
from openkcm.execution.cells import KEY_BYTES
from openkcm.execution.roots.base import Wrapped
from openkcm.execution.secretmem import wipe

__all__ = [
    "SEALED_KEY_BYTES",
    "FenceRecord",
    "KeyContext",
    "KeyringError",
    "L2Record",
    "L3Record",
    "RingRecord",
    "Tampered",
    "WrongContext",
    "generate",
    "l2_context",
    "l3_context",
    "l4_context",
    "root_name",
    "seal",
    "seal_l2",
    "seal_l3",
    "unseal",
    "unseal_l2",
    "unseal_l3",
]

CONTEXT_DOMAIN: Final = "openkcm/key/1"
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEALED_KEY_BYTES: Final = NONCE_BYTES + KEY_BYTES + TAG_BYTES

RecordId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[int, Meta(ge=1)]
SealedKey = Annotated[bytes, Meta(min_length=SEALED_KEY_BYTES, max_length=SEALED_KEY_BYTES)]


class KeyringError(Exception):
    """Root of the tree."""


class WrongContext(KeyringError):
    """The record names another tenant, region, version, root or place."""


class Tampered(KeyringError):
    """The sealed bytes do not unseal under this key and context."""


class KeyContext(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a key is for. Sealing and unsealing bind to all of it.

    Attributes:
        record: Random id of the vault record, or the object's uid.
        root: Name of the customer's root (`provider:ref`); for L2 only, since L2 alone is wrapped by it.
        approvers: SHA-256 (hex) of the residence's first approvers: a forged history cannot unseal the old keys.
        attributes: SHA-256 (hex) of the security attributes a managed object was sealed with.
    """

    tenant: str
    region: str
    level: str
    version: int
    record: str
    registration: str | None = None
    root: str | None = None
    approvers: str | None = None
    attributes: str | None = None

    def aad(self) -> bytes:
        """Return the canonical bytes: the cipher's additional data."""
        return canonical(
            CONTEXT_DOMAIN, self.tenant, self.region, self.registration, self.level, self.version,
            self.record, self.root, self.approvers, self.attributes,
        )  # fmt: skip

    def encryption_context(self) -> dict[str, str]:
        """Return the same as names and strings: what the customer's KMS binds to and writes into its own trail."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {f"openkcm-{name}": str(value) for name, value in fields.items() if value is not None}


class RingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A residence's pointer record: which records hold its keys. Written by compare-and-set; tombstoned first.

    Attributes:
        approvers_hash: SHA-256 (hex) of the residence's first approvers; part of L2's context.
        l2: version -> id of its L2Record. The highest is current.
        l3: registration -> version -> id of its L3Record. The highest is current.
        rotations: Ids of the rotations that are done, newest last: none is done twice.
        released: Older version ("L2/1", "L3/<registration>/1") -> the nodes that need it no more.
        destroyed: The residence is gone for good.
    """

    tenant: TenantId
    region: Region
    approvers_hash: Sha256Hex
    l2: dict[Version, RecordId] = {}
    l3: dict[str, dict[Version, RecordId]] = {}
    rotations: tuple[str, ...] = ()
    released: dict[str, tuple[NodeName, ...]] = {}
    destroyed: bool = False


class L2Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant key: a KEK that the customer's root wrapped, and L2 sealed under it.

    Attributes:
        root: The root that wrapped, which may be older than the one the residence links to now.
        wrapped: The KEK, with the root's version and a canary to probe that version with. A rewrap replaces this alone.
        sealed: L2 under the KEK.
    """

    id: RecordId
    version: Version
    root: RootReference
    wrapped: Wrapped
    sealed: SealedKey


class L3Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A system's key, sealed under the L2 of `l2_version`.

    Attributes:
        retired: There is a newer version. Written when that is made: an object's create names this record's revision,
            so that none comes into being under it afterwards, on whatever node.
    """

    id: RecordId
    registration: str
    version: Version
    l2_version: Version
    sealed: SealedKey
    retired: bool = False


class FenceRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every unseal reads beside L2, so that a node with a lost disk or an old backup does not serve.

    Attributes:
        revocations: ledger epoch -> (fence, event id) of the highest AccessRevoked obeyed.
        destroyed: ContextDestroyed was obeyed.
    """

    tenant: TenantId
    revocations: dict[Annotated[int, Meta(ge=0)], tuple[Annotated[int, Meta(ge=1)], EventId]] = {}
    destroyed: bool = False


# --- contexts ---------------------------------------------------------------------------------------------------------


def root_name(root: RootReference) -> str:
    """Return a root's name in contexts: `provider:ref`. Its credential is no part: that may change."""
    return f"{root.provider}:{root.ref}"


def l2_context(
    tenant: str, region: str, version: int, record_id: str, root: RootReference, approvers_hash: str
) -> KeyContext:
    """Return what an L2 is for; also what the root binds its KEK to."""
    return KeyContext(
        tenant=tenant, region=region, level="L2", version=version, record=record_id,
        root=root_name(root), approvers=approvers_hash,
    )  # fmt: skip


def l3_context(tenant: str, region: str, registration: str, version: int, record_id: str) -> KeyContext:
    """Return what an L3 is for."""
    return KeyContext(
        tenant=tenant, region=region, level="L3", version=version, record=record_id, registration=registration
    )


def l4_context(
    tenant: str, region: str, registration: str, l3_version: int, uid: str, attributes_hash: str
) -> KeyContext:
    """Return what a managed object is for; `attributes_hash` is over the attributes that limit its use."""
    return KeyContext(
        tenant=tenant, region=region, level="L4", version=l3_version, record=uid,
        registration=registration, attributes=attributes_hash,
    )  # fmt: skip


# --- keys on views ----------------------------------------------------------------------------------------------------


def generate(into: memoryview) -> None:
    """Fill a writable view with a new random key, read from the kernel straight into it.

    Raises:
        KeyringError: The view is no key's, or the kernel gave too little; it is zeros then.
    """
    _one_key(into)
    source = os.open("/dev/urandom", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.readv(source, [into]) != KEY_BYTES:
            wipe(into)
            raise KeyringError("/dev/urandom gave less than one key")
    finally:
        os.close(source)


def seal(key: memoryview, wrapping: memoryview, aad: bytes) -> bytes:
    """Return `key` sealed under `wrapping`: nonce | ciphertext | tag, 60 bytes for a 32-byte key.

    Raises:
        KeyringError: The wrapping key is none, or zeros (a wiped slot).
    """
    nonce = os.urandom(NONCE_BYTES)
    try:
        return nonce + _cipher(wrapping).encrypt(nonce, key, aad)
    finally:
        registers.clear()


def unseal(sealed: bytes, wrapping: memoryview, aad: bytes, into: memoryview) -> None:
    """Unseal into a writable view exactly as long as the key.

    Raises:
        Tampered: It does not unseal; `into` is zeros.
        KeyringError: The sizes do not fit, or the wrapping key is none; `into` is as it was.
    """
    if len(sealed) != NONCE_BYTES + into.nbytes + TAG_BYTES:
        raise KeyringError(f"{len(sealed)} sealed bytes do not hold a key of {into.nbytes}")
    cipher = _cipher(wrapping)
    try:
        cipher.decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad, into)
    except InvalidTag as bad:
        wipe(into)  # GCM writes before it knows
        raise Tampered("does not unseal: another key, another context, or changed bytes") from bad
    finally:
        registers.clear()


def seal_l2(
    key: memoryview,
    kek: memoryview,
    context: KeyContext,
    root: RootReference,
    wrapped: Wrapped,
    *,
    version: int,
    record_id: str,
) -> L2Record:
    """Return the record of an L2 that lies in `key`, under the KEK in `kek` that the root wrapped as `wrapped`.

    Raises:
        WrongContext: The context is of another version, record or root.
    """
    _one_key(key)
    record = L2Record(id=record_id, version=version, root=root, wrapped=wrapped, sealed=seal(key, kek, context.aad()))
    _check_l2(record, context)
    return record


def unseal_l2(record: L2Record, kek: memoryview, context: KeyContext, into: memoryview) -> None:
    """Unseal an L2 into `into`, once the root has unwrapped its KEK into `kek`.

    Raises:
        WrongContext: The record is of another version, record or root. `into` is as it was.
        Tampered: It does not unseal. `into` is zeros.
    """
    _check_l2(record, context)
    unseal(record.sealed, kek, context.aad(), into)


def seal_l3(
    key: memoryview,
    l2: memoryview,
    context: KeyContext,
    *,
    registration: str,
    version: int,
    record_id: str,
    l2_version: int,
) -> L3Record:
    """Return the record of an L3 that lies in `key`, under the L2 in `l2`.

    Raises:
        WrongContext: The context is of another registration, version or record.
    """
    _one_key(key)
    sealed = seal(key, l2, context.aad())
    record = L3Record(id=record_id, registration=registration, version=version, l2_version=l2_version, sealed=sealed)
    _check_l3(record, context)
    return record


def unseal_l3(record: L3Record, l2: memoryview, context: KeyContext, into: memoryview) -> None:
    """Unseal an L3 into `into` with the L2 of `record.l2_version`.

    Raises:
        WrongContext: The record is of another registration, version or record. `into` is as it was.
        Tampered: It does not unseal. `into` is zeros.
    """
    _check_l3(record, context)
    unseal(record.sealed, l2, context.aad(), into)


def _check_l2(record: L2Record, context: KeyContext) -> None:
    _same(("L2", record.version, record.id, root_name(record.root)),
          (context.level, context.version, context.record, context.root))  # fmt: skip


def _check_l3(record: L3Record, context: KeyContext) -> None:
    _same(("L3", record.version, record.id, record.registration),
          (context.level, context.version, context.record, context.registration))  # fmt: skip


def _same(is_: tuple[object, ...], wanted: tuple[object, ...]) -> None:
    if is_ != wanted:
        raise WrongContext(f"a record of {is_} where one of {wanted} belongs")


def _one_key(view: memoryview) -> None:
    if view.nbytes != KEY_BYTES:
        raise KeyringError(f"a view of {view.nbytes} bytes is not one key of {KEY_BYTES}")


def _cipher(wrapping: memoryview) -> AESGCM:
    """Build the cipher for one use. A kept one would keep key and schedule in the heap."""
    _one_key(wrapping)
    if wrapping == _ZEROS:
        raise KeyringError("the wrapping key is zeros: its slot was wiped")
    return AESGCM(wrapping)


_ZEROS: Final = bytes(KEY_BYTES)
