"""The opening of a ledger by its trust root: epoch, governance's key, nodes. Idempotent; keeps no seed.

In production the signer is an offline key, and this runs where it lies; the one-command stack has one of its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from openkcm.bus.ledger import Ledger, Stored
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from openkcm.contract.ids import event_id
from openkcm.contract.seal import Signer, key_id
from openkcm.contract.subjects import DecreeSubject

__all__ = ["announce_key", "open_epoch", "open_ledger", "remove_nodes", "retire_other_keys"]

ACTOR: Final = env.Actor(issuer="trust-root", subject="ceremony")


async def open_ledger(
    ledger: Ledger, root: Signer, governance: bytes, nodes: Iterable[tuple[str, str, bytes]]
) -> list[str]:
    """Append what is missing of: the opening of epoch 1, governance's signing key, each node's enrolment.

    Args:
        ledger: Through the `trust` user's connection.
        root: The pinned key.
        governance: Public key that the CMK seals with, 32 bytes.
        nodes: (node, region, public key).

    Returns:
        What was done, a line each.

    Raises:
        BusError: The ledger does not take it.
        ValueError: A node has the name of a removed one.
    """
    routine = await _Lane.read(ledger, subjects.ledger_aggregate("routine"))
    critical = await _Lane.read(ledger, subjects.ledger_aggregate("critical"))
    done = []
    epochs = [x.epoch for x in routine.decrees if isinstance(x, d.LedgerOpened)]
    if not epochs:
        await routine.append(root, d.LedgerOpened(epoch=1, first_sequence=1), epoch=1)
        epochs = [1]
        done.append("opened epoch 1")
    epoch = max(epochs)
    if key_id(governance) not in _keys(critical)[0]:
        await critical.append(root, d.SigningKeyRotated(key=key_id(governance), public_key=governance), epoch=epoch)
        done.append(f"governance seals with {key_id(governance)}")
    enrolled = {x.key for x in routine.decrees if isinstance(x, d.NodeEnrolled)}
    removed = {x.node for x in critical.decrees if isinstance(x, d.NodeRemoved)}
    for node, region, public in nodes:
        if node in removed:
            raise ValueError(f"{node} was removed: its name is never enrolled again, choose another one")
        if key_id(public) not in enrolled:
            decree = d.NodeEnrolled(node=node, region=region, key=key_id(public), public_key=public)
            await routine.append(root, decree, epoch=epoch)
            done.append(f"enrolled {node} in {region}")
    return done


async def open_epoch(
    ledger: Ledger, root: Signer, epoch: int, first_sequence: int, closes: tuple[str, ...], keys: Sequence[bytes]
) -> None:
    """Open a restored ledger's epoch: it closes the older ones and accepts the loss that `closes` names.

    What the ledger lost of governance's keys it says anew: one that was retired must not come back (ADR 0058).

    Args:
        keys: Public keys that governance has: all others of the ledger's are retired. The last one is the newest.

    Raises:
        BusError: The ledger does not take it.
    """
    routine = await _Lane.read(ledger, subjects.ledger_aggregate("routine"))
    await routine.append(root, d.LedgerOpened(epoch=epoch, first_sequence=first_sequence, closes=closes), epoch=epoch)
    critical = await _Lane.read(ledger, subjects.ledger_aggregate("critical"))
    for public in keys:
        if key_id(public) not in _keys(critical)[0]:
            await critical.append(root, d.SigningKeyRotated(key=key_id(public), public_key=public), epoch=epoch)
    await _retire_others(critical, root, epoch, keys)


async def remove_nodes(ledger: Ledger, root: Signer, nodes: Iterable[tuple[str, str]]) -> list[str]:
    """Append the removal of each of these nodes (name, region) that is not removed yet; return a line for each.

    Raises:
        BusError: The ledger does not take it.
    """
    epoch, critical = await _opened(ledger)
    gone = {x.node for x in critical.decrees if isinstance(x, d.NodeRemoved)}
    done = []
    for node, region in nodes:
        if node not in gone:
            await critical.append(root, d.NodeRemoved(node=node, region=region), epoch=epoch)
            done.append(f"removed {node} from {region}")
    return done


async def announce_key(ledger: Ledger, root: Signer, governance: bytes) -> list[str]:
    """Announce a further key of governance's, unless it is; those before it stay in force.

    Raises:
        BusError: The ledger does not take it.
        ValueError: It was retired: what is retired never seals again.
    """
    epoch, critical = await _opened(ledger)
    known, retired = _keys(critical)
    if key_id(governance) in retired:
        raise ValueError(f"key {key_id(governance)} was retired: it never seals again")
    if key_id(governance) in known:
        return []
    await critical.append(root, d.SigningKeyRotated(key=key_id(governance), public_key=governance), epoch=epoch)
    return [f"announced {key_id(governance)}"]


async def retire_other_keys(ledger: Ledger, root: Signer, governance: bytes) -> list[str]:
    """Retire every key of governance's but this one, in one decree, if another one is in force.

    Raises:
        BusError: The ledger does not take it.
    """
    epoch, critical = await _opened(ledger)
    return await _retire_others(critical, root, epoch, [governance])


async def _retire_others(critical: _Lane, root: Signer, epoch: int, keys: Sequence[bytes]) -> list[str]:
    known, retired = _keys(critical)
    others = tuple(sorted(known - retired - {key_id(public) for public in keys}))
    if others:
        newest = d.SigningKeyRotated(key=key_id(keys[-1]), public_key=keys[-1], retires=others)
        await critical.append(root, newest, epoch=epoch)
    return [f"retired {key}" for key in others]


async def _opened(ledger: Ledger) -> tuple[int, _Lane]:
    """Return the open epoch, and the critical lane."""
    routine = await _Lane.read(ledger, subjects.ledger_aggregate("routine"))
    epoch = max(x.epoch for x in routine.decrees if isinstance(x, d.LedgerOpened))
    return epoch, await _Lane.read(ledger, subjects.ledger_aggregate("critical"))


def _keys(critical: _Lane) -> tuple[set[str], set[str]]:
    """Return governance's keys ever announced, and those of them that were retired."""
    said = [x for x in critical.decrees if isinstance(x, d.SigningKeyRotated)]
    return {x.key for x in said}, {key for x in said for key in x.retires}


class _Lane:
    """One lane of the ledger's own aggregate."""

    def __init__(self, ledger: Ledger, where: DecreeSubject, stored: list[Stored]) -> None:
        self._ledger, self._where = ledger, where
        self._last = stored[-1].sequence if stored else 0
        self._counters: dict[int, int] = {}
        self.decrees: list[d.Decree] = []
        for message in stored:
            e = env.decode(message.body)
            self._counters[e.epoch] = max(self._counters.get(e.epoch, 0), e.counter)
            self.decrees.append(d.read(e.tag, e.data))

    @classmethod
    async def read(cls, ledger: Ledger, where: DecreeSubject) -> _Lane:
        stored: list[Stored] = []
        while page := await ledger.read(str(where), after=stored[-1].sequence if stored else 0):
            stored += page
        return cls(ledger, where, stored)

    async def append(self, root: Signer, decree: d.Decree, *, epoch: int) -> None:
        counter = self._counters.get(epoch, 0) + 1
        tag = d.tag_of(decree)
        unsealed = env.Envelope(
            id=event_id("_", "trust-root", tag, f"{epoch}/{counter}", str(self._where)),
            tag=tag,
            subject=str(self._where),
            counter=counter,
            epoch=epoch,
            actor=ACTOR,
            correlation=str(uuid.uuid4()),
            priority=env.PRIORITY_CRITICAL if self._where.lane == "critical" else env.PRIORITY_ROUTINE,
            at_ms=time.time_ns() // 1_000_000,
            time_source="ceremony-clock",
            key=root.key_id,
            data=msgspec.Raw(msgspec.json.encode(decree)),
        )
        e = env.seal_envelope(unsealed, root)
        appended = await self._ledger.append(
            e.subject, env.encode(e), id=e.id, tag=e.tag, expected_last=self._last, timeout_s=10.0
        )
        self._last = appended.sequence
        self._counters[epoch] = counter
        self.decrees.append(decree)
