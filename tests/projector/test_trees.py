"""Merkle trees in the read model: any batches and restarts give the defined roots, and every proof from rows holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from governance_ledger import TRUST, Stored
from openkcm.contract import merkle, resources
from openkcm.contract.merkle import Edge
from openkcm.projector import ProjectorError, open_writer
from openkcm.projector.database import SchemaError
from openkcm.projector.ledger import Projection
from openkcm.projector.trees import StoredTree, heads, leaf_at

SCHEMA = resources.ROOT / "projections" / "cmk"
REGIONS = ("eu-frankfurt", "us-virginia", "global")


def messages(count: int, *, first: int = 1, seed: int = 0) -> list[Stored]:
    chance = random.Random(seed)
    return [
        Stored(first + n, f"kcm.decree.{chance.choice(REGIONS)}.acme.routine.residence.acme", f"event {n}".encode(), "")
        for n in range(count)
    ]


def expected(stored: list[Stored], tree: str, epoch: int) -> list[Edge]:
    """The edge at each size, leaf by leaf."""
    edges = [Edge()]
    for m in stored:
        if m.subject.split(".")[2] == tree and max(1, m.sequence >> 40) == epoch:
            edges.append(edges[-1].append(merkle.ledger_leaf(epoch, m.sequence, m.subject, m.body)))
    return edges


@given(cuts=st.lists(st.integers(1, 400), max_size=8), restart=st.booleans(), count=st.integers(1, 900))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_roots_are_the_defined_ones_whatever_the_batches(tmp_path_factory, cuts, restart, count) -> None:
    path = tmp_path_factory.mktemp("trees") / "cmk.sqlite"
    stored = messages(count)
    writer = open_writer(path, SCHEMA, synchronous="NORMAL")
    projection = Projection(writer, TRUST.public_key)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), count], strict=True):
        projection.apply(stored[begin:end])
        if restart:
            projection = Projection(writer, TRUST.public_key)
    for head in heads(writer):
        assert head.edge == expected(stored, head.tree, 1)[-1]
    writer.close()


def test_every_proof_from_rows_holds(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    stored = messages(2200)
    Projection(writer, TRUST.public_key).apply(stored)
    chance = random.Random(1)
    for tree in REGIONS:
        edges = expected(stored, tree, 1)
        mine = [m for m in stored if m.subject.split(".")[2] == tree]
        for _ in range(60):
            nodes = StoredTree(writer, tree, 1)
            new = chance.randrange(1, len(edges))
            old, index = chance.randrange(0, new + 1), chance.randrange(0, new)
            assert merkle.root_at(nodes, new) == edges[new].root()
            merkle.verify_consistency(
                old, new, edges[old].root(), edges[new].root(), merkle.consistency_proof(nodes, old, new)
            )
            leaf = mine[index]
            assert leaf_at(writer, tree, leaf.sequence) == index
            hashed = merkle.ledger_leaf(1, leaf.sequence, leaf.subject, leaf.body)
            merkle.verify_inclusion(hashed, index, new, merkle.inclusion_proof(nodes, index, new), edges[new].root())
        with pytest.raises(merkle.ProofError):
            merkle.root_at(StoredTree(writer, tree, 1), len(edges))
        other = next(m for m in stored if m not in mine)
        assert leaf_at(writer, tree, other.sequence) is None
    writer.close()


def test_an_epoch_begins_new_trees_and_keeps_the_old_ones(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    stored = [*messages(300), *messages(40, first=2 << 40, seed=2)]
    Projection(writer, TRUST.public_key).apply(stored)
    for head in heads(writer):
        assert head.epoch == 2
        assert head.edge == expected(stored, head.tree, 2)[-1]
    for tree in REGIONS:
        old = expected(stored, tree, 1)
        assert merkle.root_at(StoredTree(writer, tree, 1), len(old) - 1) == old[-1].root()
    writer.close()


def test_what_sqlite_refused_is_not_in_the_trees_either(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    projection = Projection(writer, TRUST.public_key)
    stored = messages(20)
    projection.apply(stored[:10])
    whole = writer.apply_runs

    def refuse(_rows: object, *, synced: bool) -> None:
        raise ProjectorError("the disk is full")

    writer.apply_runs = refuse  # type: ignore[method-assign]
    with pytest.raises(ProjectorError):
        projection.apply(stored[10:])
    writer.apply_runs = whole  # type: ignore[method-assign]
    projection.apply(stored[10:])
    for head in heads(writer):
        assert head.edge == expected(stored, head.tree, 1)[-1]
    writer.close()


def test_a_read_model_without_trees_is_refused(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    writer.apply([("cursor", {"sequence": 9, "epoch": 1})])
    with pytest.raises(SchemaError, match="made anew"):
        Projection(writer, TRUST.public_key)
    writer.close()
