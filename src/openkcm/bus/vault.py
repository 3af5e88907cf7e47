"""The region's vault: sealed records by compare-and-set, erased when superseded. Opens none, verifies none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from openkcm.bus.connection import Connection, Stored
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.ledger import get_at_leader, last_at_leader
from openkcm.bus.publish import api, expecting, publish
from openkcm.contract.subjects import parse_vault

__all__ = ["Vault"]

PUT_S: Final = 5.0  # a disk that syncs stands still for seconds now and then; a client waits longer than it asks again


class Vault:
    """The stream VAULT of one region. Its changes are read with `LaneReader("VAULT", "<node>-vault")`."""

    def __init__(self, connection: Connection, region: str) -> None:
        self._connection = connection
        self._region = region

    async def get(self, subject: str) -> Stored | None:
        """Return the record's newest revision, from the stream's leader; None when there is none.

        Raises:
            NameError_: Not a vault subject of this region.
            Unavailable, Refused: As they say.
        """
        self._check(subject)
        return await last_at_leader(self._connection, "VAULT", subject)

    async def put(
        self,
        subject: str,
        body: bytes,
        *,
        id: str,  # noqa: A002 -- the field's word
        expect: tuple[str, int],
        tag: str = "",
        timeout_s: float = PUT_S,
    ) -> int:
        """Write a revision; when this returns it is on the disk. Return its sequence; the caller erases the older one.

        Args:
            expect: (subject, sequence) of what must be the newest revision there: for a new record its wrapping key's,
                for an update the record's own. Sequence 0: nothing is there.

        Raises:
            Conflict: Something else is there: read, decide again.
            SameIdOtherMessage: The id is taken by another message.
            Unavailable: No answer in time; it may still arrive: retry with the same id and body.
            Refused, TooLarge: As they say (1 MiB).
        """
        self._check(subject)
        self._check(expect[0])

        async def find(sequence: int | None) -> Stored | None:
            if sequence is not None:
                return await self._at(sequence)
            last = await self.get(subject)
            return last if last is not None and last.id == id else None

        done = await publish(
            self._connection,
            subject,
            body,
            id=id,
            tag=tag,
            expected=expecting(expect[1], expect[0]),
            find=find,
            timeout_s=timeout_s,
        )
        return done.sequence

    async def erase(self, subject: str, sequence: int) -> None:
        """Overwrite one revision's bytes and remove it. Done already is done.

        Raises:
            BusError: That sequence is another record's; nothing is erased.
            Unavailable, Refused: As they say.
        """
        self._check(subject)
        found = await self._at(sequence)
        if found is None:
            return
        if found.subject != subject:
            raise BusError(f"revision {sequence} is of {found.subject}, not of {subject}: not erased")
        answer = await api(self._connection, "$JS.API.STREAM.MSG.DELETE.VAULT", {"seq": sequence})
        if not answer.get("success") and await self._at(sequence) is not None:
            raise Unavailable(f"revision {sequence} is not erased: {answer.get('error', {}).get('description')}")

    async def revisions(self, subject: str) -> list[int]:
        """Return the sequences of all revisions still there, oldest first: more than one after a crash in between.

        Raises:
            Unavailable, Refused: As they say.
        """
        self._check(subject)
        found: list[int] = []
        at = 1
        while True:
            body = {"seq": at, "next_by_subj": subject}
            stored = await get_at_leader(self._connection, "VAULT", body)
            if stored is None:
                return found
            found.append(stored.sequence)
            at = stored.sequence + 1

    async def walk(self, tenant: str = "*") -> AsyncIterator[Stored]:
        """Yield every revision that is there, oldest first: of one tenant, or of the whole region.

        Raises:
            Unavailable, Refused: As they say.
        """
        at = 1
        while True:
            body = {"seq": at, "next_by_subj": f"kcm.vault.{self._region}.{tenant}.>"}
            stored = await get_at_leader(self._connection, "VAULT", body)
            if stored is None:
                return
            yield stored
            at = stored.sequence + 1

    async def _at(self, sequence: int) -> Stored | None:
        return await get_at_leader(self._connection, "VAULT", {"seq": sequence})

    def _check(self, subject: str) -> None:
        if parse_vault(subject).region != self._region:
            raise BusError(f"{subject} is not of region {self._region}")
