"""The region's vault as typed records: sealed on the way in, verified on the way out. Holds no key material of its own.

A record counts only when its envelope is sealed by a node enrolled in this region, for the very subject it lies under,
its data fits its class, and it is no older than what this node has seen in that place (`known`). Anything else is
`Planted`: refused and named, never repaired in passing.

Planted
└── Replayed  genuine once: an older revision in the newest one's place
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from openkcm.contract.errors import ContractError
from openkcm.execution.known import digest_of
from openkcm.execution.residence_state import State
from openkcm.execution.voice import Voice

__all__ = ["Found", "Planted", "Replayed", "Safe", "VaultPort"]

T = TypeVar("T", bound=msgspec.Struct)
AT_ONCE: Final = 8  # records of a destroyed residence on their way out
KEYS: Final = ("l3", "l2")
SEALED: Final = 4096  # records on their way through the vault and back


class VaultPort(Protocol):
    """What is asked of the bus."""

    async def get(self, subject: str, /) -> Stored | None:
        """Return the newest revision, read from the leader."""

    async def put(self, subject: str, body: bytes, /, *, id: str, expect: tuple[str, int]) -> int:  # noqa: A002 -- as on the bus
        """Store when `expect` (subject, last sequence) holds; return the new sequence."""

    async def erase(self, subject: str, sequence: int, /, *, overwrite: bool = ...) -> None:
        """Overwrite and remove a revision, or remove it alone."""

    async def at(self, sequence: int, /) -> Stored | None:
        """Return one revision."""

    async def revisions(self, subject: str, /) -> list[int]:
        """Return the sequences of all revisions still there, oldest first."""

    async def superseded(self) -> int:
        """Return how many revisions there are that are not their record's newest."""

    def repeated(self, tenant: str, /) -> AsyncIterator[str]:
        """Yield the subjects of a tenant's objects that have more than one revision."""

    def walk(self, tenant: str = ..., kind: str = ..., /) -> AsyncIterator[Stored]:
        """Yield every revision that is there, of one tenant or of all, of one kind or of all."""


class Planted(Exception):
    """A record in the vault that no enrolled node of this region sealed for this place."""


class Replayed(Planted):
    """A genuine record, older than the one this node has seen in its place, or another one of the same revision."""


class Found(msgspec.Struct, frozen=True):
    """A verified record: where, at which revision (above the one it replaced), its raw data, whether we sealed it."""

    subject: subjects.VaultSubject
    sequence: int
    revision: int
    tag: str
    data: bytes
    own: bool


class Memory(Protocol):
    """What is known of records' newest revisions (`known`)."""

    def last(self, subject: str, /) -> tuple[int, bytes] | None:
        """Return (revision, digest)."""


class NoMemory:
    """Of somebody who has seen nothing yet."""

    @staticmethod
    def last(_subject: str) -> None:
        """Return nothing."""


class Safe:
    """Typed access to the vault. `state` gives the keys of the enrolled nodes.

    `on_stranger` is called when a record lies there under a key that nobody announced to us.
    """

    VERSION: Final = "1"

    def __init__(self, vault: VaultPort, voice: Voice, region: str, memory: Memory = NoMemory()) -> None:  # noqa: B008 -- holds nothing
        self._vault, self._voice, self._region, self._memory = vault, voice, region, memory
        self._sealed: set[bytes] = set()  # SHA-256 of what was sealed here and has not come back: its seal holds
        self.on_stranger: Callable[[], object] = lambda: None
        self._revisions: dict[str, int] = {}  # of key records read or written here: the feed brings them later

    def subject(self, tenant: str, kind: str, id_: str) -> subjects.VaultSubject:
        """Return the place of a record."""
        return subjects.VaultSubject(self._region, tenant, kind, id_)

    def open(self, stored: Stored, state: State, memory: Memory | None = None) -> Found:
        """Verify a stored record.

        Args:
            memory: Instead of this node's own: what a batch of the feed has brought so far.

        Raises:
            Planted: Not sealed by a node of this region for this place.
            Replayed: Older than what is known of this place.
        """
        try:
            where = subjects.parse_vault(stored.subject)
            e = env.decode(stored.body)
            body = hashlib.sha256(stored.body).digest()
            if e.key not in state.keys and e.key not in state.former:
                self.on_stranger()
            env.verify(e, stored.subject, self._keys_of(e.key, state), checked=body in self._sealed)
            self._sealed.discard(body)
        except ContractError as bad:
            raise Planted(f"{stored.subject} at {stored.sequence}: {bad}") from bad
        if where.region != self._region:
            raise Planted(f"{stored.subject}: of another region")
        found = Found(where, stored.sequence, e.counter, e.tag, bytes(e.data), e.key == self._voice.signer.key_id)
        self._judge(found, self._memory if memory is None else memory)
        if where.kind != "object":
            self._revisions[stored.subject] = max(e.counter, self._revisions.get(stored.subject, 0))
        return found

    def _keys_of(self, key: str, state: State) -> dict[str, bytes]:
        """Return the public key of that name, when it is a node's of this region, or was before the node went."""
        public, node = state.keys.get(key, (b"", ""))
        if state.nodes.get(node) == self._region:
            return {key: public}
        public, region = state.former.get(key, (b"", ""))
        return {key: public} if region == self._region else {}

    @staticmethod
    def _judge(found: Found, memory: Memory) -> None:
        place = str(found.subject)
        known = memory.last(place)
        if known is None or found.revision > known[0]:
            return
        if found.revision < known[0] or digest_of(place, found.data) != known[1]:
            raise Replayed(
                f"{place} at {found.sequence}: revision {found.revision} where {known[0]} was known: a replay"
            )

    def knows(self, where: subjects.VaultSubject) -> bool:
        """Whether a record was seen in this place, so that nothing being there is a loss."""
        return str(where) in self._revisions or self._memory.last(str(where)) is not None

    def read(self, found: Found, kind: type[T]) -> T:
        """Return a verified record as its class.

        Raises:
            Planted: It is of another class, or does not fit.
        """
        if found.tag != f"{kind.__name__}.{self.VERSION}":
            raise Planted(f"{found.subject}: a {found.tag} where a {kind.__name__} belongs")
        try:
            return msgspec.json.decode(found.data, type=kind)
        except msgspec.MsgspecError as bad:
            raise Planted(f"{found.subject}: {bad}") from bad

    async def get(self, where: subjects.VaultSubject, kind: type[T], state: State) -> tuple[int, T] | None:
        """Return (sequence, record), or None where nothing lies.

        Raises:
            Planted: What lies there is not one of ours.
        """
        stored = await self._vault.get(str(where))
        if stored is None:
            return None
        found = self.open(stored, state)
        return found.sequence, self.read(found, kind)

    async def put(
        self,
        where: subjects.VaultSubject,
        record: msgspec.Struct,
        *,
        expect: tuple[str, int],
        epoch: int,
        replaces: int = 0,
    ) -> tuple[int, bytes]:
        """Seal and store a record; overwrite the revision it `replaces`. Return its sequence and its stored bytes.

        Args:
            expect: (subject, last sequence there): its own for an update, its wrapping key's for a create.

        Raises:
            Conflict: The expectation does not hold; nothing is stored.
        """
        tag, place = f"{type(record).__name__}.{self.VERSION}", str(where)
        known = self._memory.last(place) if expect[0] == place else None  # else it is a new one, under a random id
        above = max(0 if known is None else known[0], self._revisions.get(place, 0))
        sealed = self._voice.record(where, tag, msgspec.json.encode(record), epoch=epoch, above=above)
        body = env.encode(sealed)
        if len(self._sealed) >= SEALED:
            self._sealed.clear()  # they are verified like all others
        self._sealed.add(hashlib.sha256(body).digest())
        sequence = await self._vault.put(place, body, id=sealed.id, expect=expect)
        if where.kind != "object":
            self._revisions[place] = sealed.counter
        if replaces:
            await self._vault.erase(str(where), replaces)
        return sequence, body

    async def discard(self, where: subjects.VaultSubject, sequence: int, *, overwrite: bool = True) -> None:
        """Remove a revision that is of no use any more; overwrite it unless no key opens it."""
        await self._vault.erase(str(where), sequence, overwrite=overwrite)

    async def tidy(self, where: subjects.VaultSubject) -> int:
        """Overwrite all superseded revisions of a record; return how many there were."""
        older = await self.older(where)
        for sequence in older:
            await self._vault.erase(str(where), sequence)
        return len(older)

    async def older(self, where: subjects.VaultSubject) -> list[int]:
        """Return the sequences of a record's superseded revisions: of all but the newest, which is never among them."""
        return (await self._vault.revisions(str(where)))[:-1]

    async def superseded(self) -> int:
        """Return how many superseded revisions the region's vault has."""
        return await self._vault.superseded()

    async def repeated(self, tenant: str) -> AsyncIterator[subjects.VaultSubject]:
        """Yield the places of a tenant's objects that have superseded revisions."""
        async for subject in self._vault.repeated(tenant):
            try:
                where = subjects.parse_vault(subject)
            except ContractError:  # planted: the feed has said so
                continue
            yield where

    async def peek(self, sequence: int, kind: type[T]) -> T | None:
        """Return a superseded revision as its class, unverified; None when it is gone or is no such thing."""
        stored = await self._vault.at(sequence)
        try:
            return None if stored is None else msgspec.json.decode(env.decode(stored.body).data, type=kind)
        except (ContractError, msgspec.MsgspecError):
            return None

    async def shred(self, where: subjects.VaultSubject) -> int:
        """Overwrite every revision of a record; return how many there were."""
        all_ = await self._vault.revisions(str(where))
        for sequence in all_:
            await self._vault.erase(str(where), sequence)
        return len(all_)

    async def erase_all(self, tenant: str, keep: frozenset[str]) -> dict[str, int]:
        """Remove all revisions of all records of a tenant but those of the kinds to keep; return counts by kind.

        (1) Its keys' records are overwritten; (2) then everything else, objects without being overwritten: the keys
        that open them are gone.
        """
        counts: dict[str, int] = {}

        async def erase(stored: Stored) -> None:
            kind = subjects.parse_vault(stored.subject).kind
            await self._vault.erase(stored.subject, stored.sequence, overwrite=kind != "object")
            counts[kind] = counts.get(kind, 0) + 1

        for kinds in (*KEYS, "*"):
            some: list[Stored] = []
            async for stored in self._vault.walk(tenant, kinds):
                if subjects.parse_vault(stored.subject).kind not in keep:
                    some.append(stored)
                if len(some) == AT_ONCE:
                    await asyncio.gather(*map(erase, some))
                    some.clear()
            await asyncio.gather(*map(erase, some))
        return counts
