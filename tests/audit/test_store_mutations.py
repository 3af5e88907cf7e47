"""Damage to a real server's files: the audit, holding an export of before, names the first event that is not there.

CI takes one of each kind; `just mutations` as many as it is told.
"""

import asyncio
import os
import random
import shutil

import pytest

from audit import store as stores
from audit.evidence import exported, life
from audit.mutations import first_difference
from audit.sealed_ledger import ROOT
from openkcm.audit.examine import examine
from openkcm.audit.exported import Export
from openkcm.audit.replay import Line
from openkcm.audit.trees import Tampered
from openkcm.audit.verify import BadEvent
from openkcm.contract import decrees as d

ROUNDS = max(1, int(os.environ.get("OPENKCM_MUTATIONS", "4")) // 4)


@pytest.fixture(scope="module")
def ledger():
    made, _ = life()
    for n in range(700):  # long ones, so that they fill several blocks
        made.residence(d.TenantConfigurationUpdated(labels={f"label-{i}": f"{n:04}" * 50 for i in range(60)}))
    return made


@pytest.fixture(scope="module")
def export(ledger, tmp_path_factory):
    return exported(ledger, tmp_path_factory.mktemp("before") / "export")


@pytest.fixture(scope="module")
def stored(ledger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "js"
    with stores.serving(folder) as url:
        asyncio.run(stores.fill(url, ledger.entries))
    assert len(stores.blocks(folder)) >= 3
    return folder


def flip(blocks, index, rnd):
    """One bit of one block."""
    file = rnd.choice(blocks)
    raw = bytearray(file.read_bytes())
    raw[rnd.randrange(len(raw))] ^= 1 << rnd.randrange(8)
    file.write_bytes(bytes(raw))


def truncate(blocks, index, rnd):
    file = rnd.choice(blocks)
    raw = file.read_bytes()
    file.write_bytes(raw[: rnd.randrange(len(raw))])


def delete_block(blocks, index, rnd):
    rnd.choice(blocks).unlink()


def lose_the_index_and_flip(blocks, index, rnd):
    index.unlink(missing_ok=True)
    flip(blocks, index, rnd)


def lose_the_index_and_the_tail(blocks, index, rnd):
    index.unlink(missing_ok=True)
    raw = blocks[-1].read_bytes()
    blocks[-1].write_bytes(raw[: rnd.randrange(len(raw))])


def swap_blocks(blocks, index, rnd):
    one, other = rnd.sample(blocks, 2)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def recreate(blocks, index, rnd):
    """The stream is gone with its folder: an older copy of the first block is all that is put back."""
    index.unlink(missing_ok=True)
    for block in blocks[1:]:
        block.unlink()


DAMAGES = (flip, truncate, delete_block, lose_the_index_and_flip, lose_the_index_and_the_tail, swap_blocks, recreate)


def verify(export, entries):
    trees = Export(export).trees()
    lines = [Line(sequence=n, subject=s, body=b, id=i) for n, s, b, i in entries]
    return trees.check(examine(lines, ROOT.public_key, see=[trees.see]).keys)


def read(folder):
    with stores.serving(folder) as url:
        return asyncio.run(stores.read(url))


def test_an_undamaged_store_passes_with_and_without_its_index(ledger, export, stored, tmp_path):
    whole = stores.copy(stored, tmp_path / "js")
    assert verify(export, read(whole)) == len(ledger.entries)
    for index in whole.rglob("index.db"):
        index.unlink()
    assert verify(export, read(whole)) == len(ledger.entries)


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda m: m.__name__)
def test_damage_is_named_at_the_first_event_that_is_not_what_it_was(ledger, export, stored, tmp_path, damage, seed):
    folder = stores.copy(stored, tmp_path / "js")
    blocks = stores.blocks(folder)
    damage(blocks, blocks[0].parent / "index.db", random.Random(f"{damage.__name__}/{seed}"))
    entries = read(folder)
    shutil.rmtree(folder)
    if entries is None:
        return  # the server itself knows no such stream any more: nothing is served from it
    wrong = first_difference(ledger.entries, entries)
    if wrong is None:  # the server did not need what was damaged
        assert verify(export, entries) == len(ledger.entries)
        return
    with pytest.raises((BadEvent, Tampered)) as found:
        verify(export, entries)
    assert found.value.sequence == wrong, found.value
