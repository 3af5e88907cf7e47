"""The region's vault: sealed records by compare-and-set, and their erasure. Opens none, verifies none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.ledger import get_at_leader, last_at_leader
from openkcm.bus.messages import Stored
from openkcm.bus.publish import api, expecting, publish
from openkcm.contract.subjects import parse_vault

__all__ = ["Vault"]

LISTING_S: Final = 30.0  # a hundred thousand subjects a page
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
        """Write a revision; when this returns it is on the disk. Return its sequence; the older one stays.

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
                return await self.at(sequence)
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

    async def erase(self, subject: str, sequence: int, *, overwrite: bool = True) -> None:
        """Overwrite one revision's bytes and remove it. Done already is done.

        Args:
            overwrite: False where nobody can open it any more: it is removed, and its bytes stay on the disk until the
                server next compacts the file around them. Nobody can have them overwritten after that (ADR 0061).

        Raises:
            BusError: That sequence is another record's; nothing is erased.
            Unavailable, Refused: As they say.
        """
        self._check(subject)
        found = await self.at(sequence)
        if found is None:
            return
        if found.subject != subject:
            raise BusError(f"revision {sequence} is of {found.subject}, not of {subject}: not erased")
        body = {"seq": sequence, "no_erase": not overwrite}
        answer = await api(self._connection, "$JS.API.STREAM.MSG.DELETE.VAULT", body)
        if not answer.get("success") and await self.at(sequence) is not None:
            raise Unavailable(f"revision {sequence} is not erased: {answer.get('error', {}).get('description')}")

    async def revisions(self, subject: str) -> list[int]:
        """Return the sequences of all revisions still there, oldest first: the last one is the newest.

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

    async def superseded(self) -> int:
        """Return how many revisions of the region are not their record's newest.

        Raises:
            Unavailable, Refused: As they say.
        """
        state = await self._listed({})
        return int(state["messages"] - state.get("num_subjects", 0))  # an empty stream says none

    async def repeated(self, tenant: str) -> AsyncIterator[str]:
        """Yield the subjects of a tenant's objects that have more than one revision.

        Raises:
            Unavailable, Refused: As they say.
        """
        offset = 0
        while True:
            body = {"subjects_filter": f"kcm.vault.{self._region}.{tenant}.object.>", "offset": offset}
            page = (await self._listed(body)).get("subjects") or {}
            if not page:
                return
            offset += len(page)
            for subject in [s for s, count in page.items() if count > 1]:
                yield subject

    async def walk(self, tenant: str = "*", kind: str = "*") -> AsyncIterator[Stored]:
        """Yield every revision that is there, oldest first: of one tenant or of all, of one kind or of all.

        Raises:
            Unavailable, Refused: As they say.
        """
        at = 1
        while True:
            body = {"seq": at, "next_by_subj": f"kcm.vault.{self._region}.{tenant}.{kind}.>"}
            stored = await get_at_leader(self._connection, "VAULT", body)
            if stored is None:
                return
            yield stored
            at = stored.sequence + 1

    async def at(self, sequence: int) -> Stored | None:
        """Return one revision, from the stream's leader; None when it is not there any more.

        Raises:
            Unavailable, Refused: As they say.
        """
        return await get_at_leader(self._connection, "VAULT", {"seq": sequence})

    async def _listed(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await api(self._connection, "$JS.API.STREAM.INFO.VAULT", body, timeout_s=LISTING_S)
        if "error" in answer:
            raise Unavailable(f"VAULT: {answer['error'].get('description')}")
        state: dict[str, Any] = answer["state"]
        return state

    def _check(self, subject: str) -> None:
        if parse_vault(subject).region != self._region:
            raise BusError(f"{subject} is not of region {self._region}")
