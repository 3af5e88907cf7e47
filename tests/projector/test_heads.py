"""The regions' heads in the read model are the chains that nodes keep, over any batches, new regions and epochs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from governance_ledger import TRUST, Stored
from openkcm.bus.feed import matches
from openkcm.contract import reports, resources
from openkcm.governance.beat import Chain, filters_of
from openkcm.projector import open_writer
from openkcm.projector.heads import Head, head_of
from openkcm.projector.ledger import Projection

SCHEMA = resources.ROOT / "projections" / "cmk"
SUBJECTS = (
    "kcm.decree.eu-frankfurt.acme.critical.residence.acme",
    "kcm.decree.eu-frankfurt.acme.routine.residence.acme",
    "kcm.decree.us-virginia.bolt.critical.residence.bolt",
    "kcm.decree.global._.critical.ledger.main",
    "kcm.decree.global._.routine.ledger.main",
    "kcm.decree.global.acme.critical.odd.acme",
    "kcm.decree.odd",
)


def messages(count: int, *, first: int = 1, seed: int = 0) -> list[Stored]:
    chance = random.Random(seed)
    return [Stored(first + n, chance.choice(SUBJECTS), f"event {n}".encode(), "") for n in range(count)]


def followed(stored: list[Stored], region: str) -> tuple[int, bytes]:
    """As governance and nodes compute it from the mirror's filters."""
    last, known = 0, bytes(32)
    for m in stored:
        if any(matches(f, m.subject) for f in filters_of(region)):
            last, known = m.sequence, reports.grown_head(known, last, m.sequence, m.body)
    return last, known


@pytest.mark.parametrize("cuts", [[], [7], [1, 2, 50, 51, 199]])
def test_a_head_is_the_chain_whatever_the_batches_and_restarts(tmp_path: Path, cuts: list[int]) -> None:
    writer = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    stored = [*messages(200), *messages(60, first=2 << 40, seed=3)]
    for begin, end in zip([0, *cuts], [*cuts, len(stored)], strict=True):
        Projection(writer, TRUST.public_key).apply(stored[begin:end])
    for region in ("eu-frankfurt", "us-virginia", "never-seen"):
        last, known = followed(stored, region)
        assert head_of(writer, region) == Head(stored[-1].sequence, last, known)
    writer.close()


async def test_a_chain_goes_on_from_a_head(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    assert head_of(writer, "eu-frankfurt") == Head(0, 0, bytes(32))
    stored = messages(100)
    Projection(writer, TRUST.public_key).apply(stored[:60])
    head = head_of(writer, "eu-frankfurt")
    chain = Chain(head.sequence, head.hash)
    for m in stored:
        if m.sequence > head.read_to and any(matches(f, m.subject) for f in filters_of("eu-frankfurt")):
            chain.add(m.sequence, m.body)
    last, known = followed(stored, "eu-frankfurt")
    assert await chain.head_at(last) == reports.Head(sequence=last, hash=known.hex())
    writer.close()
