"""The provider's own hand in its own ledger, past every rule of governance: for the demo to show what it cannot do.

Uses governance's sealing key and credential from the stack's directory. Also queues the backlog of routine events that
the kill switch has to overtake: the API could, one request each; this is the same events sooner, in atomic batches.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError, Conflict
from openkcm.bus.ledger import Ledger
from openkcm.bus.publish import ERRORS, expecting
from openkcm.cli import orbital
from openkcm.cli.layout import Layout
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract.envelope import PRIORITY_CRITICAL, PRIORITY_ROUTINE, Actor, Envelope
from openkcm.contract.seal import Signer
from openkcm.contract.subjects import DecreeSubject, residence_aggregate

__all__ = ["Appended", "append", "pause_routine", "queue_backlog", "resume_routine"]

_T = TypeVar("_T")
ACTOR: Final = Actor(issuer="urn:openkcm:demo", subject="nobody-of-the-tenant")
LONGEST_PAUSE: Final = dt.timedelta(minutes=10)
BATCH: Final = 500  # events of one atomic append; the server takes a thousand


class Appended(msgspec.Struct, frozen=True):
    """An event that is in the ledger by this hand."""

    event: str
    counter: int
    sequence: int


def append(layout: Layout, region: str, tenant: str, decrees: Sequence[d.Decree]) -> list[Appended]:
    """Append events to a residence, well sealed and well counted, whoever may have consented or not.

    Raises:
        BusError: The ledger did not take one.
    """

    async def each(connection: Connection) -> list[Appended]:
        return await _append(layout, connection, region, tenant, decrees)

    return asyncio.run(_as_governance(layout, each))


def queue_backlog(layout: Layout, residences: Sequence[tuple[str, str]], count: int) -> dict[tuple[str, str], int]:
    """Append `count` harmless configuration events, spread over residences (tenant, region).

    Returns:
        The counter of each residence's last routine event.

    Raises:
        BusError: The ledger did not take one.
    """

    async def all_of_them(connection: Connection) -> dict[tuple[str, str], int]:
        shares = [count // len(residences) + (i < count % len(residences)) for i in range(len(residences))]
        work = [
            _append_batches(layout, connection, region, tenant, [_label(n) for n in range(share)])
            for (tenant, region), share in zip(residences, shares, strict=True)
        ]
        done = await asyncio.gather(*work)
        return {where: counter for where, counter in zip(residences, done, strict=True) if counter}

    return asyncio.run(_as_governance(layout, all_of_them))


def pause_routine(layout: Layout) -> None:
    """Hold back the routine lane of every node, on its own leaf; the critical lane has nothing to do with it.

    Raises:
        BusError: A leaf refused.
    """
    until = dt.datetime.now(dt.UTC) + LONGEST_PAUSE
    asyncio.run(_pause(layout, until.isoformat()))


def resume_routine(layout: Layout) -> None:
    """Let the routine lanes go on.

    Raises:
        BusError: A leaf refused.
    """
    asyncio.run(_pause(layout, None))


def _label(number: int) -> d.TenantConfigurationUpdated:
    return d.TenantConfigurationUpdated(labels={"backlog": str(number)})


async def _as_governance(layout: Layout, work: Callable[[Connection], Awaitable[_T]]) -> _T:
    connection = await connect(orbital.access(layout.state, "cmk", layout.ports.hub), name="rogue")
    try:
        return await work(connection)
    finally:
        await connection.close()


async def _append(
    layout: Layout, connection: Connection, region: str, tenant: str, decrees: Sequence[d.Decree]
) -> list[Appended]:
    ledger, signer = Ledger(connection), layout.governance_signer
    done: list[Appended] = []
    marks: dict[DecreeSubject, tuple[int, int, int]] = {}
    for decree in decrees:
        lane = d.lane_of(decree)
        subject = residence_aggregate(region, tenant, lane)
        if subject not in marks:
            marks[subject] = await _mark(ledger, subject)
        epoch, counter, sequence = marks[subject]
        sealed = _sealed(subject, decree, epoch, counter + 1, signer)
        appended = await ledger.append(
            str(subject), env.encode(sealed), id=sealed.id, tag=sealed.tag, expected_last=sequence, timeout_s=10
        )
        marks[subject] = (epoch, counter + 1, appended.sequence)
        done.append(Appended(sealed.id, counter + 1, appended.sequence))
    return done


async def _append_batches(
    layout: Layout, connection: Connection, region: str, tenant: str, decrees: Sequence[d.Decree]
) -> int:
    """Append routine decrees of one residence, `BATCH` at a time; return the last one's counter (0: there was none)."""
    signer, subject, ledger = layout.governance_signer, residence_aggregate(region, tenant), Ledger(connection)
    begin = 0
    epoch, counter, sequence = await _mark(ledger, subject) if decrees else (1, 0, 0)
    while begin < len(decrees):
        share = decrees[begin : begin + BATCH]
        batch = uuid.uuid4().hex
        for number, decree in enumerate(share, 1):
            sealed = _sealed(subject, decree, epoch, counter + number, signer)
            headers = {"Nats-Msg-Id": sealed.id, "Kcm-Tag": sealed.tag, "Nats-Batch-Id": batch,
                       "Nats-Batch-Sequence": str(number)}  # fmt: skip
            headers |= expecting(sequence) if number == 1 else {}
            if number < len(share):
                await connection.publish(str(subject), env.encode(sealed), headers=headers)
        headers |= {"Nats-Batch-Commit": "1"}
        answer = await connection.request(str(subject), env.encode(sealed), headers=headers, timeout_s=30)
        told = msgspec.json.decode(answer.body)
        if (
            ERRORS.get(told.get("error", {}).get("err_code")) is Conflict
        ):  # governance itself wrote meanwhile: once more
            epoch, counter, sequence = await _mark(ledger, subject)
            continue
        if "error" in told:
            raise BusError(f"{subject}: the ledger did not take a batch: {told['error'].get('description')}")
        counter, begin, sequence = counter + len(share), begin + len(share), told["seq"]
    return counter


async def _mark(ledger: Ledger, subject: DecreeSubject) -> tuple[int, int, int]:
    """Return (epoch, counter, sequence) of the subject's last event."""
    last = await ledger.last(str(subject))
    if last is None:
        return 1, 0, 0
    known = env.decode(last.body)
    return known.epoch, known.counter, last.sequence


def _sealed(subject: DecreeSubject, decree: d.Decree, epoch: int, counter: int, signer: Signer) -> Envelope:
    event = str(uuid.uuid4())
    return env.seal_envelope(
        Envelope(
            id=event,
            tag=d.tag_of(decree),
            subject=str(subject),
            counter=counter,
            epoch=epoch,
            actor=ACTOR,
            correlation=event,
            priority=PRIORITY_CRITICAL if subject.lane == "critical" else PRIORITY_ROUTINE,
            at_ms=time.time_ns() // 1_000_000,
            time_source="demo",
            key=signer.key_id,
            data=msgspec.Raw(msgspec.json.encode(decree)),
        ),
        signer,
    )


async def _pause(layout: Layout, until: str | None) -> None:
    for region in layout.regions:
        user = f"{region.region}-admin"
        access = orbital.access(layout.state, user, layout.server_ports[region.region])
        connection = await connect(access, name=user)
        try:
            for node in region.nodes:
                body = msgspec.json.encode({"pause_until": until} if until is not None else {})
                answer = await connection.request(f"$JS.API.CONSUMER.PAUSE.LEDGER.{node}-routine", body)
                told = msgspec.json.decode(answer.body)
                if "error" in told or bool(told.get("paused")) != (until is not None):
                    raise BusError(f"{node}: the routine lane could not be held or let go: {told}")
        finally:
            await connection.close()
