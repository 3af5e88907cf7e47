"""Who has obeyed, as a table: every row a sentence."""

from __future__ import annotations

from typing import ClassVar

import pytest

from openkcm.governance.pending import Ack, Member, certain_after_s, critical, longest_lease_s, members, routine
from openkcm.governance.watch import Watch

A, B = "node-a", "node-b"


def ack(
    node: str, floor: int, epoch: int = 1, above: tuple[int, ...] = (), lease: int = 60, failure: str | None = None
) -> Ack:
    return Ack(node, epoch, floor, above, lease, failure)


@pytest.mark.parametrize(
    ("acks", "status", "acked"),
    [
        ({}, "Pending", 0),
        ({A: ack(A, 5)}, "Pending", 1),
        ({A: ack(A, 5), B: ack(B, 4)}, "Pending", 1),
        ({A: ack(A, 5), B: ack(B, 9)}, "InSync", 2),
        ({A: ack(A, 5), B: ack(B, 4, above=(5,))}, "Pending", 1),  # routine decrees count in order only
        ({A: ack(A, 5), B: ack(B, 9, epoch=2)}, "Pending", 1),
        ({A: ack(A, 5), B: ack(B, 5, failure="RootRefused")}, "Failed", 2),
    ],
)
def test_routine(acks: dict[str, Ack], status: str, acked: int) -> None:
    now = routine(1, 5, (A, B), acks)
    assert (now.status, now.acked, now.of) == (status, acked, 2)


def test_nothing_is_in_sync_where_there_is_no_node() -> None:
    assert routine(1, 0, (), {}).status == "Pending"
    assert critical(1, 1, (), {}, revoked_at=(1, 1), certain_in_s=None, epochs={}).status == "Revoking"


@pytest.mark.parametrize(
    ("acks", "left", "epochs", "status"),
    [
        ({}, 10.0, {A: 1, B: 1}, "Revoking"),
        ({A: ack(A, 3)}, 10.0, {A: 1, B: 1}, "Revoking"),
        ({A: ack(A, 3), B: ack(B, 1, above=(3,))}, 10.0, {}, "Revoked"),  # a critical one obeyed before those below it
        ({A: ack(A, 3), B: ack(B, 2)}, 0.1, {A: 1, B: 1}, "Revoking"),
        ({A: ack(A, 3), B: ack(B, 2)}, -0.1, {A: 1, B: 1}, "RevokedByLease"),
        (
            {A: ack(A, 3), B: ack(B, 2)},
            -0.1,
            {A: 1, B: 2},
            "Revoking",
        ),  # it lives in another epoch: its leases bind nobody
        ({A: ack(A, 3)}, -0.1, {A: 1}, "Revoking"),  # nobody knows where it lives
        ({A: ack(A, 3), B: ack(B, 3, epoch=2)}, 10.0, {A: 1, B: 1}, "Revoking"),
    ],
)
def test_critical(acks: dict[str, Ack], left: float, epochs: dict[str, int], status: str) -> None:
    assert critical(1, 3, (A, B), acks, revoked_at=(1, 3), certain_in_s=left, epochs=epochs).status == status


def test_without_an_open_revocation_the_lane_is_in_sync_or_pending() -> None:
    assert critical(1, 3, (A,), {A: ack(A, 3)}, revoked_at=None, certain_in_s=None, epochs={}).status == "InSync"
    assert critical(1, 3, (A,), {A: ack(A, 2)}, revoked_at=None, certain_in_s=None, epochs={}).status == "Pending"


def test_a_removed_node_counts_until_its_last_lease_is_over() -> None:
    nodes = [Member(A), Member(B, removed_for_s=30)]
    assert members(nodes, 60) == (A, B)
    assert members(nodes, 20) == (A,)


def test_the_longest_lease_is_the_longest_not_yet_replaced_in_every_node() -> None:
    ordered = [(1, 2, 3600), (1, 5, 60)]
    assert longest_lease_s(ordered, {A: ack(A, 5, lease=60), B: ack(B, 4, lease=3600)}, (A, B)) == 3600
    assert longest_lease_s(ordered, {A: ack(A, 5, lease=60), B: ack(B, 5, lease=60)}, (A, B)) == 60
    assert longest_lease_s(ordered, {A: ack(A, 5, lease=60)}, (A, B)) == 3600  # never heard of: it may hold any
    assert longest_lease_s([(1, 2, 60), (1, 5, 3600)], {A: ack(A, 2, lease=60)}, (A,)) == 3600  # it may have it by now
    assert certain_after_s(3600) > 3600


def test_a_revocation_of_an_older_epoch_is_repeated_until_every_node_has_acknowledged_it_in_that_epoch() -> None:
    class Views:
        acked: ClassVar[dict[str, Ack]] = {A: Ack(A, 2, 0, older={1: (3, ())}), B: Ack(B, 2, 0)}

        def critical_waiting(self) -> list[tuple[str, str, int, int]]:
            return [("acme", "eu", 1, 3)]

        def acks(self, _tenant: str, _region: str, _lane: str) -> dict[str, Ack]:
            return self.acked

        def nodes(self, _region: str) -> list[tuple[str, str, None]]:
            return [(A, "", None), (B, "", None)]

        def enrolled(self, _region: str) -> list[str]:
            return [A, B]

        def above(self, _tenant: str, _region: str, _lane: str, epoch: int, floor: int) -> list[tuple[int, int]]:
            return [(epoch, floor)]

    views = Views()
    watch = Watch(views)  # type: ignore[arg-type]
    assert watch.unacknowledged() == [(1, 0)]
    Views.acked[B] = Ack(B, 2, 0, older={1: (3, ())})
    assert watch.unacknowledged() == []
