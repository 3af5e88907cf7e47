"""The region's vault as typed records: sealed on the way in, verified on the way out. Holds no key material of its own.

A record counts only when its envelope is sealed by a node enrolled in this region, for the very subject it lies under,
and its data fits its class. Anything else is `Planted`: refused and named, never repaired in passing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol, TypeVar

import msgspec

from openkcm.bus.connection import Stored
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from openkcm.contract.errors import ContractError
from openkcm.execution.residence_state import State
from openkcm.execution.voice import Voice

__all__ = ["Found", "Planted", "Safe", "VaultPort"]

T = TypeVar("T", bound=msgspec.Struct)


class VaultPort(Protocol):
    """What is asked of the bus."""

    async def get(self, subject: str, /) -> Stored | None:
        """Return the newest revision, read from the leader."""

    async def put(self, subject: str, body: bytes, /, *, id: str, expect: tuple[str, int]) -> int:  # noqa: A002 -- as on the bus
        """Store when `expect` (subject, last sequence) holds; return the new sequence."""

    async def erase(self, subject: str, sequence: int, /) -> None:
        """Overwrite a superseded revision."""

    async def revisions(self, subject: str, /) -> list[int]:
        """Return the sequences of all revisions still there, oldest first."""

    def walk(self, tenant: str = ..., /) -> AsyncIterator[Stored]:
        """Yield every revision that is there, of one tenant or of all."""


class Planted(Exception):
    """A record in the vault that no enrolled node of this region sealed for this place."""


class Found(msgspec.Struct, frozen=True):
    """A verified record: where and at which revision, and its raw data."""

    subject: subjects.VaultSubject
    sequence: int
    tag: str
    data: bytes


class Safe:
    """Typed access to the vault. `state` gives the keys of the enrolled nodes."""

    VERSION: Final = "1"

    def __init__(self, vault: VaultPort, voice: Voice, region: str) -> None:
        self._vault, self._voice, self._region = vault, voice, region

    def subject(self, tenant: str, kind: str, id_: str) -> subjects.VaultSubject:
        """Return the place of a record."""
        return subjects.VaultSubject(self._region, tenant, kind, id_)

    def open(self, stored: Stored, state: State) -> Found:
        """Verify a stored record.

        Raises:
            Planted: Not sealed by a node of this region for this place.
        """
        try:
            where = subjects.parse_vault(stored.subject)
            e = env.decode(stored.body)
            own = {k: p for k, (p, who) in state.keys.items() if state.nodes.get(who) == self._region}
            own |= {k: p for k, (p, region) in state.former.items() if region == self._region}  # written before it went
            env.verify(e, stored.subject, own)
        except ContractError as bad:
            raise Planted(f"{stored.subject} at {stored.sequence}: {bad}") from bad
        if where.region != self._region:
            raise Planted(f"{stored.subject}: of another region")
        return Found(where, stored.sequence, e.tag, bytes(e.data))

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
        tag = f"{type(record).__name__}.{self.VERSION}"
        sealed = self._voice.record(where, tag, msgspec.json.encode(record), epoch=epoch)
        body = env.encode(sealed)
        sequence = await self._vault.put(str(where), body, id=sealed.id, expect=expect)
        if replaces:
            await self._vault.erase(str(where), replaces)
        return sequence, body

    async def discard(self, where: subjects.VaultSubject, sequence: int) -> None:
        """Overwrite a record that lost a race and was never used."""
        await self._vault.erase(str(where), sequence)

    async def tidy(self, where: subjects.VaultSubject) -> int:
        """Overwrite superseded revisions that a crash between put and erase has left; return how many."""
        older = (await self._vault.revisions(str(where)))[:-1]
        for sequence in older:
            await self._vault.erase(str(where), sequence)
        return len(older)

    async def shred(self, where: subjects.VaultSubject) -> int:
        """Overwrite every revision of a record; return how many there were."""
        all_ = await self._vault.revisions(str(where))
        for sequence in all_:
            await self._vault.erase(str(where), sequence)
        return len(all_)

    async def erase_all(self, tenant: str, keep: frozenset[str]) -> dict[str, int]:
        """Overwrite all revisions of all records of a tenant but those of the kinds to keep; return counts by kind."""
        counts: dict[str, int] = {}
        async for stored in self._vault.walk(tenant):
            where = subjects.parse_vault(stored.subject)
            if where.kind not in keep:
                await self._vault.erase(stored.subject, stored.sequence)
                counts[where.kind] = counts.get(where.kind, 0) + 1
        return counts
