"""What a node holds of a residence, in one number: the canonical facts and their digest. Pure.

A node digests what lies in its SQLite, governance what its read model of the ledger says; equal facts give equal
digests. In it is all that decrees decide and that both sides keep. What only a node sees (a root's refusal, failures,
rotations still to be done) or only governance (labels, confirmations) is not.

Sizes: a digest is 32 hexadecimal digits (the first 128 bits of a SHA-256) behind the version of `Facts`: two versions
of this software compare only what both of them count in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

__all__ = ["NOTHING", "Digest", "Facts", "comparable", "digest", "region_digest"]

#: Raise it whenever a field of `Facts` comes, goes, or is spelled in another way.
VERSION: Final = 1
Digest = Annotated[str, Meta(pattern=r"^[0-9]{1,4}:[0-9a-f]{32}$")]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One residence at its counters in an epoch. Everything that has no order is sorted.

    Attributes:
        generation, fence: Counters of the two lanes in the ledger's epoch, without a gap below them.
        configuration: (lease in s, hand-out policy, most objects), None before the first.
        approvers: (version, hash of the set), None before the first.
        root: (provider, reference, credential's name), None while unlinked.
        systems: (registration, system, its own hand-out policy); also those that were decommissioned.
        authorities: (id, SHA-256 of the certificate) of the tenant's own CAs; also removed ones.
        workloads: (enrolment, workload, system, registration, fingerprint, SPIFFE id, authority); also removed ones.
        revocations: (epoch, highest fence, its event).
        floors: (level/registration, lowest version in use).
        whole: Nothing critical is missing or unreadable; the ledger's own facts always are.
    """

    tenant: str
    generation: int = 0
    fence: int = 0
    configuration: tuple[int, str, int] | None = None
    approvers: tuple[int, str] | None = None
    root: tuple[str, str, str | None] | None = None
    systems: tuple[tuple[str, str, str | None], ...] = ()
    authorities: tuple[tuple[str, str], ...] = ()
    workloads: tuple[tuple[str, str, str, str, str | None, str | None, str | None], ...] = ()
    suspended: bool = False
    removed: tuple[str, ...] = ()
    revocations: tuple[tuple[int, int, str], ...] = ()
    lifted: tuple[str, ...] = ()
    floors: tuple[tuple[str, int], ...] = ()
    destroyed: bool = False
    whole: bool = True

    @property
    def is_blank(self) -> bool:
        """Whether nothing was ever decreed here: such a residence is in no digest."""
        return self == Facts(tenant=self.tenant)


#: The digest of what cannot be read: equal to no residence's.
NOTHING: Final = f"{VERSION}:{'0' * 32}"


def digest(facts: Facts) -> str:
    """Return a residence's digest."""
    return _hashed(b"openkcm residence", msgspec.json.encode(facts))


def region_digest(digests: Mapping[str, str]) -> str:
    """Return the one digest over a region's residences, from theirs by tenant."""
    return _hashed(b"openkcm region", msgspec.json.encode(sorted(digests.items())))


def comparable(a: str | None, b: str | None) -> bool:
    """Whether both are digests of the same facts: a node of another version may count in others."""
    return a is not None and b is not None and a.partition(":")[0] == b.partition(":")[0]


def _hashed(domain: bytes, body: bytes) -> str:
    return f"{VERSION}:{hashlib.sha256(domain + bytes(1) + body).hexdigest()[:32]}"
