"""The trust root's own acts: open an epoch, name governance's key, enrol nodes. For whoever holds the offline key.

The one-command stack runs it at every start; on a ledger that has all of it already, nothing is appended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Final

import msgspec

from openkcm.bus.ledger import Ledger, Stored
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal
from openkcm.contract.ids import Lane, event_id
from openkcm.contract.subjects import ledger_aggregate

__all__ = ["NotOurs", "open_ledger"]

ACTOR: Final = env.Actor(issuer="trust-root", subject="ceremony")
PAGE: Final = 1000


class NotOurs(Exception):
    """The ledger is another trust root's."""


class _Known:
    """One lane of the ledger's own events, as it is."""

    def __init__(self) -> None:
        self.counter = self.last = 0
        self.decrees: list[d.Decree] = []


async def open_ledger(
    ledger: Ledger,
    reader: Ledger,
    root: seal.Signer,
    cmk_public_key: bytes,
    nodes: Iterable[tuple[str, str, bytes]],
) -> int:
    """Append what is missing of: LedgerOpened, SigningKeyRotated, NodeEnrolled for each node. Return how many.

    Args:
        ledger: As the user `trust`: may append the ledger's own events and nothing else.
        reader: As a user that may read them (`cmk`).
        nodes: (name, region, public sealing key) of the fleet.

    Raises:
        NotOurs: Its events are sealed by another root.
        BusError: The ledger does not take them.
    """
    routine, critical = [await _known(reader, lane, root) for lane in ("routine", "critical")]
    wanted: list[d.Decree] = []
    key = seal.key_id(cmk_public_key)
    named = [x for x in critical.decrees if isinstance(x, d.SigningKeyRotated)]
    if key not in {x.key for x in named}:
        wanted.append(d.SigningKeyRotated(key=key, public_key=cmk_public_key))
    if not any(isinstance(x, d.LedgerOpened) for x in routine.decrees):
        wanted.append(d.LedgerOpened(epoch=1, first_sequence=1))
    enrolled = {(x.node, x.key) for x in routine.decrees if isinstance(x, d.NodeEnrolled)}
    for node, region, public_key in nodes:
        own = seal.key_id(public_key)
        if (node, own) not in enrolled:
            wanted.append(d.NodeEnrolled(node=node, region=region, key=own, public_key=public_key))
    epoch = max((x.epoch for x in routine.decrees if isinstance(x, d.LedgerOpened)), default=1)
    for decree in wanted:
        await _append(ledger, root, decree, critical if d.lane_of(decree) == "critical" else routine, epoch)
    return len(wanted)


async def _known(reader: Ledger, lane: Lane, root: seal.Signer) -> _Known:
    known, after = _Known(), 0
    subject = str(ledger_aggregate(lane))
    while page := await reader.read(subject, after=after, limit=PAGE):
        for stored in page:
            _take(known, stored, root)
        after = page[-1].sequence
    return known


def _take(known: _Known, stored: Stored, root: seal.Signer) -> None:
    known.last = stored.sequence
    e = env.decode(stored.body)
    known.counter = max(known.counter, e.counter)
    kind = d.DECREES.get(e.tag)
    if kind is None or kind.decree not in d.TRUST_ROOT_DECREES:
        return
    if e.key != root.key_id:
        raise NotOurs(f"the ledger's event at {stored.sequence} is sealed by another trust root, {e.key}")
    env.verify(e, stored.subject, {root.key_id: root.public_key})
    known.decrees.append(d.read(e.tag, e.data))


async def _append(ledger: Ledger, root: seal.Signer, decree: d.Decree, known: _Known, epoch: int) -> None:
    lane = d.lane_of(decree)
    subject, tag = str(ledger_aggregate(lane)), d.tag_of(decree)
    counter = known.counter + 1
    e = env.seal_envelope(
        env.Envelope(
            id=event_id("_", ACTOR.subject, tag, f"{epoch}/{counter}", subject),
            tag=tag,
            subject=subject,
            counter=counter,
            epoch=epoch,
            actor=ACTOR,
            correlation=str(uuid.uuid4()),
            priority=env.PRIORITY_CRITICAL if lane == "critical" else env.PRIORITY_ROUTINE,
            at_ms=time.time_ns() // 1_000_000,
            time_source="ceremony",
            key=root.key_id,
            data=msgspec.Raw(msgspec.json.encode(decree)),
        ),
        root,
    )
    done = await ledger.append(subject, env.encode(e), id=e.id, tag=tag, expected_last=known.last)
    known.counter, known.last = counter, done.sequence
