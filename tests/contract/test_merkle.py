"""Merkle trees against two independent implementations (pymerkle, sigstore) and RFC 9162's own definitions."""

import hashlib
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore.errors import VerificationError

from openkcm.contract import merkle
from openkcm.contract.merkle import Edge, ProofError

LEAVES = [f"leaf {n}".encode() for n in range(80)]


class Leaves:
    """A tree by its definition: RFC 9162 section 2.1.1, recursive, from all leaves."""

    def __init__(self, leaves):
        self.leaves = leaves

    def mth(self, begin, end):
        if end - begin == 0:
            return hashlib.sha256(b"").digest()
        if end - begin == 1:
            return hashlib.sha256(b"\x00" + self.leaves[begin]).digest()
        k = 1
        while 2 * k < end - begin:
            k *= 2
        return hashlib.sha256(b"\x01" + self.mth(begin, begin + k) + self.mth(begin + k, end)).digest()

    def node(self, level, index):
        assert (index + 1) << level <= len(self.leaves), "a hash that the tree does not have yet"
        return self.mth(index << level, (index + 1) << level)


def edge_of(leaves):
    edge = Edge()
    for leaf in leaves:
        edge = edge.append(merkle.leaf_hash(leaf))
    return edge


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 8, 13, 64, 80])
def test_the_incremental_root_is_the_defined_one_and_pymerkles(size):
    independent = InmemoryTree()
    for leaf in LEAVES[:size]:
        independent.append_entry(leaf)
    edge = edge_of(LEAVES[:size])
    assert edge.root() == Leaves(LEAVES).mth(0, size) == independent.get_root()
    assert len(edge.hashes) == size.bit_count()
    assert merkle.root_at(Leaves(LEAVES), size) == edge.root()


def test_an_edge_goes_on_from_its_bytes_without_the_leaves():
    stored = msgspec.json.encode(edge_of(LEAVES[:37]))
    edge = msgspec.json.decode(stored, type=Edge).check()
    for leaf in LEAVES[37:]:
        edge = edge.append(merkle.leaf_hash(leaf))
    assert edge == edge_of(LEAVES)
    with pytest.raises(ProofError):
        msgspec.structs.replace(edge, size=edge.size + 2).check()


@given(st.integers(1, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_an_inclusion_proof_convinces_two_independent_verifiers(pair):
    size, index = pair
    tree, leaf = Leaves(LEAVES), merkle.leaf_hash(LEAVES[index])
    root = tree.mth(0, size)
    proof = merkle.inclusion_proof(tree, index, size)
    merkle.verify_inclusion(leaf, index, size, proof, root)
    verify_merkle_inclusion(entry(LEAVES[index], index, size, proof, root))
    independent = InmemoryTree()
    for one in LEAVES[:size]:
        independent.append_entry(one)
    assert independent.prove_inclusion(index + 1, size).path == [leaf, *proof]


@given(st.integers(1, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size))))
def test_a_consistency_proof_is_pymerkles_and_holds(pair):
    new, old = pair
    tree = Leaves(LEAVES)
    proof = merkle.consistency_proof(tree, old, new)
    merkle.verify_consistency(old, new, tree.mth(0, old), tree.mth(0, new), proof)
    if 0 < old < new:
        independent = InmemoryTree()
        for one in LEAVES[:new]:
            independent.append_entry(one)
        assert (independent.get_root(old), independent.get_root()) == (tree.mth(0, old), tree.mth(0, new))
        theirs = independent.prove_consistency(old, new)
        if theirs.subset[0] == 1:  # else it descends to a leaf of the new part, where RFC 9162 stops before
            assert proof == (theirs.path[1:] if old & (old - 1) == 0 else theirs.path)


@given(
    st.integers(2, 80).flatmap(lambda new: st.tuples(st.just(new), st.integers(1, new - 1))),
    st.data(),
)
def test_no_changed_proof_convinces(pair, data):
    new, old = pair
    tree, leaf = Leaves(LEAVES), merkle.leaf_hash(LEAVES[old])
    roots = tree.mth(0, old), tree.mth(0, new)
    for proof, check in (
        (
            merkle.consistency_proof(tree, old, new),
            lambda p: merkle.verify_consistency(old, new, *roots, p),
        ),
        (merkle.inclusion_proof(tree, old, new), lambda p: merkle.verify_inclusion(leaf, old, new, p, roots[1])),
    ):
        check(proof)
        if proof:
            at = data.draw(st.integers(0, len(proof) - 1))
            flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
            for wrong in ([*proof[:at], flipped, *proof[at + 1 :]], proof[:-1], [*proof, proof[-1]]):
                with pytest.raises(ProofError):
                    check(wrong)


def test_another_history_of_the_same_length_is_not_consistent():
    ours, theirs = Leaves(LEAVES), Leaves([*LEAVES[:5], b"another", *LEAVES[6:]])
    for old in range(6, 40):
        proof = merkle.consistency_proof(theirs, old, 64)
        with pytest.raises(ProofError):
            merkle.verify_consistency(old, 64, ours.mth(0, old), theirs.mth(0, 64), proof)


def test_what_does_not_exist_has_no_proof():
    tree = Leaves(LEAVES)
    for wrong in (lambda: merkle.inclusion_proof(tree, 3, 3), lambda: merkle.consistency_proof(tree, 4, 3)):
        with pytest.raises(ProofError):
            wrong()
    with pytest.raises(ProofError):
        merkle.verify_consistency(0, 4, b"x" * 32, tree.mth(0, 4), [])
    with pytest.raises(ProofError):
        merkle.verify_inclusion(merkle.leaf_hash(LEAVES[0]), 1, 1, [], tree.mth(0, 1))


def test_a_leaf_binds_where_it_stands():
    one = merkle.ledger_leaf(1, 7, "kcm.decree.a.b.routine.residence.b", b"body")
    others = (
        merkle.ledger_leaf(2, 7, "kcm.decree.a.b.routine.residence.b", b"body"),
        merkle.ledger_leaf(1, 8, "kcm.decree.a.b.routine.residence.b", b"body"),
        merkle.ledger_leaf(1, 7, "kcm.decree.a.c.routine.residence.c", b"body"),
        merkle.ledger_leaf(1, 7, "kcm.decree.a.b.routine.residence.b", b"bodz"),
    )
    assert one not in others
    assert len(set(others)) == 4


def test_sigstore_refuses_what_is_not_there():
    tree = Leaves(LEAVES)
    proof = merkle.inclusion_proof(tree, 3, 40)
    with pytest.raises(VerificationError):
        verify_merkle_inclusion(entry(LEAVES[4], 3, 40, proof, tree.mth(0, 40)))


def entry(leaf, index, size, proof, root):
    """What sigstore's verifier reads of a transparency log's entry."""
    shown = SimpleNamespace(log_index=index, tree_size=size, hashes=proof, root_hash=root)
    return SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=shown, canonicalized_body=leaf))
