"""Replay: the same SQL over the same ledger gives the same rows; a row that was touched is named."""

import re
import sqlite3
from typing import NamedTuple

import pytest

from audit.sealed_ledger import ROOT, SealedLedger, whole
from openkcm.audit.replay import UNINDEXED, compare, folded, tables_of
from openkcm.contract import resources
from openkcm.projector import open_writer
from openkcm.projector.ledger import Projection
from openkcm.projector.statements import named_statements


class Stored(NamedTuple):
    sequence: int
    subject: str
    body: bytes
    id: str


def stored(ledger):
    return [Stored(*entry) for entry in ledger.entries]


@pytest.fixture
def registry(tmp_path):
    path = tmp_path / "registry.sqlite"
    writer = open_writer(path, resources.ROOT / "projections" / "cmk", synchronous="NORMAL")
    projection = Projection(writer, ROOT.public_key)
    for message in stored(whole()):  # one transaction each, as governance does when it follows
        projection.apply([message])
    writer.close()
    return path


def test_governances_tables_are_what_the_ledger_says(registry):
    cursor, tables = tables_of(registry)
    assert cursor == len(whole().entries)
    assert tables["lifted"]
    assert compare(folded(stored(whole()), ROOT.public_key), tables) == []


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("DELETE FROM revocation", "revocation"),
        ("UPDATE configuration SET lease_s = 31", "configuration"),
        ("INSERT INTO person_role VALUES ('acme', 'mallory', 'tenant-admin')", "person_role"),
        ("UPDATE event_routine SET person = 'mallory' WHERE sequence = 4", "event_routine"),
    ],
)
def test_a_row_that_somebody_touched_is_named(registry, change, table):
    with sqlite3.connect(registry) as connection:
        connection.execute(change)
    connection.close()
    differences = compare(folded(stored(whole()), ROOT.public_key), tables_of(registry)[1])
    assert [d.table for d in differences] == [table]
    assert differences[0].missing or differences[0].surplus


def test_no_statement_of_the_fold_looks_up_by_an_index_that_a_replay_makes_last(tmp_path):
    schema = resources.ROOT / "projections" / "cmk"
    writer = open_writer(tmp_path / "cmk.sqlite", schema, synchronous="OFF")
    query = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = ?"
    last = {name for table in UNINDEXED for (name,) in writer.rows(query, (table,))}
    assert {"event_routine_by_id", "enrolled_workload_in_order"} <= last
    for name, statements in named_statements(schema).items():
        for sql in statements:
            nothing = dict.fromkeys(re.findall(r":([a-z_]+)", sql))
            plan = writer.rows(f"EXPLAIN QUERY PLAN {sql}", nothing)
            assert not last & {word for *_, step in plan for word in step.split()}, name
    writer.close()


def test_a_restore_by_one_person_lifts_nothing_in_the_replay_either():
    ledger = SealedLedger().open()
    ledger.restore(ledger.revoke(), signers=("anna",))
    assert folded(stored(ledger), ROOT.public_key)["lifted"] == []
