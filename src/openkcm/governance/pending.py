"""Who has obeyed, and who must have by when: the portal's honesty. Pure: acks, leases and clocks come as values.

A status is for one lane of one residence. The nodes that count: those enrolled, and removed ones while their last
lease may still run. `Pending -> InSync | Failed`; for a revocation `Revoking -> Revoked | RevokedByLease`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

__all__ = ["Ack", "Member", "Status", "certain_after_s", "critical", "longest_lease_s", "members", "routine"]

#: Two clocks of two machines over one lease: 500 ppm each, and what an echo may have waited for.
DRIFT_RATIO: Final = 0.001
DRIFT_S: Final = 1.0


class Member(msgspec.Struct, frozen=True):
    """A node of the region. `removed_for_s`: since this CMK read its removal, None while it is enrolled."""

    node: str
    removed_for_s: float | None = None


class Ack(msgspec.Struct, frozen=True):
    """The newest SyncAck of one node for one lane. `older`: by earlier epoch (floor, above) of the newest one there."""

    node: str
    epoch: int
    floor: int
    above: tuple[int, ...] = ()
    lease_s: int = 0
    failure: str | None = None
    older: Mapping[int, tuple[int, tuple[int, ...]]] = {}

    def mark(self, epoch: int) -> tuple[int, tuple[int, ...]]:
        """Return (floor, what is obeyed above it) in an epoch."""
        return (self.floor, self.above) if epoch == self.epoch else self.older.get(epoch, (0, ()))

    def covers(self, epoch: int, counter: int) -> bool:
        """Whether everything up to `counter` of this epoch is obeyed."""
        return self.mark(epoch)[0] >= counter

    def obeys(self, epoch: int, counter: int) -> bool:
        """Whether this very decree is obeyed, whatever is missing below it."""
        floor, above = self.mark(epoch)
        return floor >= counter or counter in above


class Status(msgspec.Struct, frozen=True):
    """What is shown. `certain_in_s`: after that many seconds nobody can serve any more, acked or not."""

    counter: int
    status: Literal["InSync", "Pending", "Failed", "Revoking", "Revoked", "RevokedByLease"]
    acked: int
    of: int
    waiting_for: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    certain_in_s: float | None = None


def members(nodes: Iterable[Member], lease_s: float) -> tuple[str, ...]:
    """Return the nodes that count: a removed one until the longest lease it may hold is over."""
    return tuple(
        sorted(
            {
                n.node
                for n in nodes
                if n.removed_for_s is None or n.removed_for_s <= lease_s * (1 + DRIFT_RATIO) + DRIFT_S
            }
        )
    )


def longest_lease_s(ordered: Sequence[tuple[int, int, int]], acks: Mapping[str, Ack], nodes: Iterable[str]) -> int:
    """Return the longest lease that any of these nodes may still hold.

    Args:
        ordered: (epoch, generation, lease in s) of every lease ever ordered, oldest first.
        acks: Newest routine SyncAck by node.
        nodes: Who counts.
    """
    longest = 0
    for node in nodes:
        ack = acks.get(node)
        have = [lease for epoch, generation, lease in ordered if ack and ack.covers(epoch, generation)]
        still = [lease for epoch, generation, lease in ordered if not (ack and ack.covers(epoch, generation))]
        in_force = have[-1:] if have else []
        longest = max([longest, *still, *in_force, ack.lease_s if ack else 0])
    return longest


def certain_after_s(lease_s: float) -> float:
    """Return how long after the PubAck nobody can serve any more by a lease of `lease_s`."""
    return lease_s * (1 + DRIFT_RATIO) + DRIFT_S


def routine(epoch: int, counter: int, nodes: Sequence[str], acks: Mapping[str, Ack]) -> Status:
    """Return the status of the routine lane at `counter`."""
    acked = [n for n in nodes if counter == 0 or (n in acks and acks[n].covers(epoch, counter))]
    failures = tuple((n, acks[n].failure or "") for n in acked if n in acks and acks[n].failure)
    waiting = tuple(n for n in nodes if n not in acked)
    status: Literal["InSync", "Pending", "Failed"] = "InSync" if nodes and not waiting else "Pending"
    if failures:
        status = "Failed"
    return Status(counter, status, len(acked), len(nodes), waiting, failures)


def critical(
    epoch: int, counter: int, nodes: Sequence[str], acks: Mapping[str, Ack], *,
    revoked_at: tuple[int, int] | None, certain_in_s: float | None, epochs: Mapping[str, int],
) -> Status:  # fmt: skip
    """Return the status of the critical lane at `counter`.

    Args:
        revoked_at: (epoch, fence) of the highest open revocation, None when none is open.
        certain_in_s: Seconds until every lease of before it is over, by this CMK's monotonic clock; below 0: they are.
        epochs: The epoch in each node's last report of any kind.
    """
    target = revoked_at or (epoch, counter)
    acked = [n for n in nodes if target[1] == 0 or (n in acks and acks[n].obeys(*target))]
    waiting = tuple(n for n in nodes if n not in acked)
    if revoked_at is None:
        return Status(counter, "InSync" if nodes and not waiting else "Pending", len(acked), len(nodes), waiting)
    if nodes and not waiting:
        return Status(counter, "Revoked", len(acked), len(nodes))
    # Only a node that is known to live in this epoch is bound by its leases: another one may follow another history.
    bound = all(epochs.get(n) == target[0] for n in waiting)
    if certain_in_s is not None and certain_in_s < 0 and bound:
        return Status(counter, "RevokedByLease", len(acked), len(nodes), waiting, certain_in_s=0.0)
    return Status(counter, "Revoking", len(acked), len(nodes), waiting, certain_in_s=certain_in_s if bound else None)
