"""A node's own tree against signed checkpoints: agreement in any order of arrival, and every kind of fork."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract import checkpoint as cp
from openkcm.contract import envelope as env
from openkcm.contract import merkle
from openkcm.contract.merkle import Edge
from openkcm.contract.published import Published, open_published, seal_published
from openkcm.contract.seal import Signer
from openkcm.execution.mirrored import Agreed, Forked, Kept, Mirrored

CMK, REGION = Signer(b"c" * 32), "eu-frankfurt"
NAME = cp.ledger_name(b"t" * 32)


def message(sequence: int, region: str = REGION, text: str = "") -> tuple[int, str, bytes]:
    return sequence, f"kcm.decree.{region}.acme.routine.residence.acme", f"event {sequence}{text}".encode()


def history(count: int, *, first: int = 1, changed: int | None = None) -> list[tuple[int, str, bytes]]:
    """Every third message is a trust event of all regions."""
    return [
        message(n, "global" if n % 3 == 0 else REGION, "x" if n == changed else "") for n in range(first, first + count)
    ]


def points(messages: list[tuple[int, str, bytes]], epoch: int = 1) -> list[cp.Checkpoint]:
    edge, found = Edge(), []
    for sequence, subject, body in messages:
        if f".{REGION}." in subject:
            edge = edge.append(merkle.ledger_leaf(epoch, sequence, subject, body))
            origin = cp.origin_of(NAME, REGION, epoch)
            found.append(cp.Checkpoint(origin=origin, size=edge.size, root=edge.root(), epoch=epoch, sequence=sequence))
    return found


def said(point: cp.Checkpoint, counter: int) -> Published:
    e = seal_published(point, CMK, counter=counter, epoch=point.epoch, at_ms=1, time_source="t")
    return open_published(e.subject, env.encode(e), {CMK.key_id: CMK.public_key}, NAME)


def fed(messages: list[tuple[int, str, bytes]], kept: Kept | None = None) -> Mirrored:
    tree = Mirrored(NAME, REGION, kept or Kept())
    for one in messages:
        assert tree.leaf(*one) == []
    return tree


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_whatever_comes_first_every_true_checkpoint_is_agreed_or_covered(seed: int, count: int) -> None:
    chance = random.Random(seed)
    messages = history(count)
    signed = [said(point, n + 1) for n, point in enumerate(points(messages)) if chance.random() < 0.5]
    signed += [said(points(messages)[-1], len(messages) + 1)]
    tree, agreed, left, right = Mirrored(NAME, REGION, Kept()), [], list(messages), list(signed)
    while left or right:
        if left and (not right or chance.random() < 0.5):
            outcomes = tree.leaf(*left.pop(0))
        else:
            outcomes = [x for x in [tree.heard(right.pop(0))] if x is not None]
        agreed += outcomes
        if chance.random() < 0.1:  # a restart: what waits is lost, the next one covers it
            tree = Mirrored(NAME, REGION, msgspec.json.decode(msgspec.json.encode(tree.kept), type=Kept))
            right = right or [signed[-1]]
    assert all(isinstance(x, Agreed) for x in agreed)
    assert tree.kept.edge.root() == points(messages)[-1].root
    assert tree.kept.fork is None


def test_another_root_of_the_same_size_is_a_fork_that_names_both() -> None:
    ours, theirs = points(history(30)), points(history(30, changed=14))
    tree = fed(history(30))
    assert isinstance(tree.heard(said(ours[5], 1)), Agreed)
    forked = tree.heard(said(theirs[-1], 2))
    assert isinstance(forked, Forked)
    assert theirs[-1].root.hex()[:16] in forked.why
    assert ours[-1].root.hex()[:16] in forked.why
    assert tree.kept.fork == forked.why
    assert tree.heard(said(ours[-1], 3)) is None, "nothing is agreed after a fork"


def test_a_fork_is_found_when_the_events_come_after_the_checkpoint() -> None:
    theirs, messages = points(history(30, changed=14)), history(30)
    tree = fed(messages[:10])
    assert tree.heard(said(theirs[-1], 1)) is None
    outcomes = [x for one in messages[10:] for x in tree.leaf(*one)]
    assert [type(x) for x in outcomes] == [Forked]


def test_a_mirror_that_lacks_an_event_says_so_as_soon_as_it_is_past_it() -> None:
    messages = history(31)
    tree = fed(messages[:20])
    last = points(messages)[-1]
    assert tree.heard(said(last, 1)) is None
    for one in messages[20:]:
        assert tree.kept.lacks is None
        assert one[0] == 25 or tree.leaf(*one) == []
    assert (tree.kept.lacks, tree.lacking, tree.kept.fork) == (last, True, None)
    # without an event of the region behind it, a trust event shows that the mirror is past
    tree = fed(messages[:27])
    assert tree.heard(said(points(messages)[18], 1)) is None  # sequence 28
    assert tree.leaf(*message(30, "global")) == []
    assert tree.kept.lacks == points(messages)[18]
    # a later event of the region in the missing one's place in the tree is no other history
    tree = fed([m for m in messages if m[0] != 25])
    assert tree.heard(said(points(messages)[17], 1)) is None
    assert (tree.kept.lacks, tree.kept.fork) == (points(messages)[17], None)


def test_what_a_mirror_lacked_is_there_when_it_agrees_with_a_checkpoint_that_covers_it_and_not_before() -> None:
    messages = history(31)
    signed = points(messages)
    tree = fed([m for m in messages if m[0] != 25])
    assert tree.heard(said(signed[-1], 2)) is None
    assert tree.heard(said(signed[5], 1)) is None
    for one in messages:
        tree.leaf(*one)
    assert tree.kept.lacks == signed[-1], "it is not read again by itself"
    tree.again()
    for one in messages[:-1]:
        tree.leaf(*one)
        assert tree.kept.lacks == signed[-1]
    assert [type(x) for x in tree.leaf(*messages[-1])] == [Agreed]
    assert tree.kept.lacks is None


def test_a_mirror_with_more_than_was_signed_is_a_fork() -> None:
    messages = history(31)
    tree = fed(messages)
    assert isinstance(tree.heard(said(points([m for m in messages if m[0] != 25])[-1], 1)), Forked)


def test_in_a_later_epoch_the_tree_is_read_again_from_that_epochs_start() -> None:
    old, new = history(12), history(31, first=2 << 40)
    tree = fed([*old, *(m for m in new if m[0] != (2 << 40) + 5)])
    assert tree.heard(said(points(new, 2)[-1], 1)) is None
    assert tree.kept.lacks is not None
    tree.again()
    outcomes = [x for one in [*old, *new] for x in tree.leaf(*one)]
    assert [type(x) for x in outcomes] == [Agreed]
    assert tree.kept.lacks is None


def test_a_new_epoch_ends_what_the_mirror_lacked_of_the_one_before() -> None:
    tree = fed([m for m in history(31) if m[0] != 25])
    assert tree.heard(said(points(history(31))[-1], 1)) is None
    tree.leaf(*message((2 << 40) + 1))
    assert (tree.kept.lacks, tree.lacking) == (None, False)


def test_a_ledger_that_shrank_is_a_fork() -> None:
    signed, messages = points(history(30)), history(30)
    tree = fed(messages)
    assert isinstance(tree.heard(said(signed[15], 7)), Agreed)
    forked = tree.heard(said(signed[9], 8))
    assert isinstance(forked, Forked)
    assert "smaller" in forked.why
    assert str(signed[15]) in forked.why


def test_two_checkpoints_of_one_number_are_a_fork_even_when_both_fit() -> None:
    signed = points(history(30))
    tree = fed(history(30))
    assert isinstance(tree.heard(said(signed[15], 7)), Agreed)
    assert tree.heard(said(signed[15], 7)) is None, "the same again says nothing"
    assert isinstance(tree.heard(said(signed[16], 7)), Forked)


def test_an_old_checkpoint_again_says_nothing() -> None:
    signed = points(history(30))
    tree = fed(history(30))
    for number in (3, 7):
        assert isinstance(tree.heard(said(signed[number], number)), Agreed)
    assert tree.heard(said(signed[2], 2)) is None
    assert tree.kept.fork is None


def test_a_new_epoch_begins_a_new_tree_and_ends_the_fork() -> None:
    old, again = history(12), history(9, first=2 << 40)
    tree = fed(old)
    assert isinstance(tree.heard(said(points(history(12, changed=4))[-1], 1)), Forked)
    assert tree.heard(said(points(again, 2)[-1], 1)) is None, "its first event has not come"
    outcomes = [x for one in again for x in tree.leaf(*one)]
    assert outcomes == [] or all(isinstance(x, Agreed) for x in outcomes)
    assert isinstance(tree.heard(said(points(again, 2)[-1], 2)), Agreed)
    assert tree.kept.fork is None
    assert tree.heard(said(points(old)[-1], 9)) is None, "a closed epoch's checkpoint says nothing"


@pytest.mark.parametrize("count", [1, 20])
def test_what_is_below_our_place_changes_nothing(count: int) -> None:
    tree = fed(history(20))
    before = tree.kept
    for one in history(count):
        tree.leaf(*one)
    assert tree.kept == before
