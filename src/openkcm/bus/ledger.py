"""The ledger, as governance and audit see it: append with expectation, read by cursor. Never parses a decree."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from openkcm.bus import feed
from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.messages import Stored, stored_of
from openkcm.bus.publish import Appended, api, expecting, publish

__all__ = ["Appended", "Ledger", "Stored", "StreamState"]

GET: Final = "$JS.API.DIRECT.GET.LEDGER"
NO_MESSAGE: Final = 10037
FOLLOWED_S: Final = 3.0  # followers answer every second, however idle the ledger is
FOLLOWED_LOOK_S: Final = 0.1


class StreamState(msgspec.Struct, frozen=True):
    """A stream's extent. On the hub's ledger `deleted` is 0: no sequence may be missing."""

    first: int
    last: int
    messages: int
    deleted: int


class _Peer(msgspec.Struct, frozen=True):
    """A follower, and how many nanoseconds ago the leader last heard from it."""

    active: int = 1 << 62


class _Cluster(msgspec.Struct, frozen=True):
    """Who leads the stream, since when, and who follows; no followers where there is one server only."""

    leader: str = ""
    leader_since: str = ""
    replicas: tuple[_Peer, ...] = ()


class Ledger:
    """The stream LEDGER through one connection, of the hub or of the auditor's mirror."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def append(
        self,
        subject: str,
        body: bytes,
        *,
        id: str,  # noqa: A002 -- the field's word
        tag: str,
        expected_last: int | None,
        timeout_s: float = 2.0,
    ) -> Appended:
        """Publish one decree once; when this returns it is on the disk.

        Args:
            id: The event's id, kept as Nats-Msg-Id.
            expected_last: Sequence of the last message on `subject` (0: none yet); None expects nothing.

        Raises:
            Conflict: Something else is the last on `subject`.
            SameIdOtherMessage: The id is taken by another message, which the error carries.
            Unavailable: No answer in time. It may still arrive: retry with the same id and body.
            Refused, TooLarge: As they say.
        """

        async def find(sequence: int | None) -> Stored | None:
            if sequence is not None:
                return await self._at(sequence)
            after = 0 if expected_last is None else expected_last
            async for stored in self._of(subject, after=after):
                if stored.id == id:
                    return stored
            return None

        return await publish(
            self._connection,
            subject,
            body,
            id=id,
            tag=tag,
            expected=expecting(expected_last),
            find=find,
            timeout_s=timeout_s,
        )

    async def last(self, subject: str) -> Stored | None:
        """Return the last message of an exact subject.

        Raises:
            Unavailable, Refused: As they say.
        """
        answer = await self._connection.request(f"{GET}.{subject}")
        return _found(answer.headers.get("Status"), stored_of(answer))

    async def read(self, subject: str, *, after: int = 0, limit: int = 1000) -> list[Stored]:
        """Return up to `limit` messages of an exact subject behind the cursor `after`.

        Raises:
            Unavailable, Refused: As they say.
        """
        return await feed.page(self._connection, GET, after=after, subject=subject, limit=limit)

    async def read_all(self, *, after: int = 0, until: int | None = None) -> AsyncIterator[Stored]:
        """Yield the whole ledger behind `after`, up to and with `until`, else up to its end as it is when reached.

        Raises:
            Unavailable: A page could not be read; go on behind the last one yielded.
        """
        async for stored in feed.pages(self._connection, GET, after=after, until=until):
            yield stored

    async def follow(self, *, after: int, filters: Sequence[str] | None = None) -> AsyncIterator[Stored]:
        """Yield what is behind `after` and then what comes, over any outage, each once and in order.

        Raises:
            Refused: Not permitted.
            Unavailable: The connection was closed.
        """
        source = feed.Source(get=GET, live="kcm.decree.>")
        async for stored in feed.follow(self._connection, source, after=after, filters=filters):
            yield stored

    async def leader_last(self, filters: Sequence[str], *, since_s: float) -> Stored | None:
        """Return the newest message over the filters, read from the stream's leader and never from a replica.

        A leader that was cut off answers until it notices, some ten seconds long, while the others have elected another
        one. So, in a cluster:
        (1) a majority has followed this leader after `since_s`: nothing that was acknowledged by then is missing here;
        (2) the heads are read;
        (3) it leads still, and did all the time.

        Args:
            since_s: The running loop's time from which on the answer must hold.

        Raises:
            Unavailable: No answer, or no leader that a majority follows, within `FOLLOWED_S`.
            Refused: Not permitted.
        """
        before = await self._followed(since_s)  # (1)
        found = await asyncio.gather(*(last_at_leader(self._connection, "LEDGER", f) for f in filters))  # (2)
        if before is not None:  # (3)
            after = await self._cluster()
            if (after.leader, after.leader_since) != (before.leader, before.leader_since):
                raise Unavailable("the ledger's leader changed while its head was read")
        return max((stored for stored in found if stored is not None), key=lambda stored: stored.sequence, default=None)

    async def _followed(self, since_s: float) -> _Cluster | None:
        """Return the cluster once a majority has followed its leader after `since_s`, or None where there is none."""
        clock = asyncio.get_running_loop().time
        until = clock() + FOLLOWED_S
        while True:
            passed_ns = (clock() - since_s) * 1e9  # measured before we ask: what is said then is later
            cluster = await self._cluster()
            if not cluster.replicas:
                return None
            if sum(peer.active < passed_ns for peer in cluster.replicas) >= (len(cluster.replicas) + 1) // 2:
                return cluster
            if clock() > until:
                raise Unavailable("no majority follows the ledger's leader")
            await asyncio.sleep(FOLLOWED_LOOK_S)

    async def _cluster(self) -> _Cluster:
        told = await api(self._connection, "$JS.API.STREAM.INFO.LEDGER")
        if "error" in told:
            raise Unavailable(f"LEDGER: {told['error'].get('description')}")
        return msgspec.convert(told.get("cluster") or {}, _Cluster)

    async def info(self) -> StreamState:
        """Return the ledger's extent, from its leader.

        Raises:
            Unavailable, Refused: As they say.
        """
        return state_of(await api(self._connection, "$JS.API.STREAM.INFO.LEDGER"))

    async def _at(self, sequence: int) -> Stored | None:
        answer = await self._connection.request(GET, msgspec.json.encode({"seq": sequence}))
        return _found(answer.headers.get("Status"), stored_of(answer))

    async def _of(self, subject: str, *, after: int) -> AsyncIterator[Stored]:
        while found := await self.read(subject, after=after):
            for stored in found:
                yield stored
            after = found[-1].sequence


def _found(status: str | None, stored: Stored) -> Stored | None:
    if status is None:
        return stored
    if status == "404":
        return None
    raise Unavailable(f"a direct get was answered with status {status}")


def state_of(info: dict[str, Any]) -> StreamState:
    """Return the state in a STREAM.INFO answer.

    Raises:
        Unavailable: The answer is an error.
    """
    if "error" in info:
        raise Unavailable(f"no stream: {info['error'].get('description')}")
    state = info["state"]
    return StreamState(state["first_seq"], state["last_seq"], state["messages"], state.get("num_deleted", 0))


async def last_at_leader(connection: Connection, stream: str, subject: str) -> Stored | None:
    """Return the last message on a subject pattern, from the leader of `stream`."""
    return await get_at_leader(connection, stream, {"last_by_subj": subject})


async def get_at_leader(connection: Connection, stream: str, body: dict[str, Any]) -> Stored | None:
    """Return one message by STREAM.MSG.GET, which only a stream's leader answers.

    Raises:
        Unavailable, Refused: As they say.
    """
    answer = await api(connection, f"$JS.API.STREAM.MSG.GET.{stream}", body)
    if "error" in answer:
        if answer["error"].get("err_code") == NO_MESSAGE:
            return None
        raise Unavailable(f"{stream}: {answer['error'].get('description')}")
    try:
        message = answer["message"]
        headers = base64.b64decode(message.get("hdrs", "")).decode(errors="replace")
        id_ = next((line[13:] for line in headers.split("\r\n") if line.startswith("Nats-Msg-Id: ")), "")
        return Stored(message["seq"], message["subject"], base64.b64decode(message.get("data", "")), id_)
    except (KeyError, ValueError) as bad:
        raise BusError(f"{stream}: not an answer of JetStream's") from bad
