"""The writer commits all or nothing; a reader cannot write."""

from __future__ import annotations

from pathlib import Path

import pytest

from openkcm.contract.resources import ROOT
from openkcm.projector import open_reader, open_writer
from openkcm.projector.database import SchemaError, StorageFailed, UnknownStatement
from openkcm.projector.prepared import TOGETHER, together
from openkcm.projector.statements import split


def test_rows_by_place_are_refused_where_a_statement_names_what_they_have_not(schema, tmp_path):
    writer = open_writer(tmp_path / "t.sqlite", schema)
    with pytest.raises(SchemaError, match="put: no such parameter: 'b'"):
        writer.lay_out("put", ("a",))
    with pytest.raises(UnknownStatement):
        writer.lay_out("other", ("a",))
    writer.apply([("put", {"a": 1, "b": "x"})])
    writer.lay_out("put", ("c", "b", "a"))
    writer.apply_runs([("put", [("-", "y", 2)])])
    assert writer.rows("SELECT a, b FROM t ORDER BY a") == [(1, "x!!"), (2, "y!")]
    writer.close()


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    folder = tmp_path / "schema"
    (folder / "rows").mkdir(parents=True)
    (folder / "0001_first.sql").write_text("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT NOT NULL) STRICT;\n")
    (folder / "rows" / "put.sql").write_text(
        "-- two; statements\nINSERT INTO t VALUES (:a, :b);\nUPDATE t SET b = b || '!';"
    )
    (folder / "rows" / "nothing.sql").write_text("-- Ignored: it says nothing of t.\n")
    return folder


def test_what_is_applied_is_read_by_a_reader(tmp_path: Path, schema: Path) -> None:
    writer = open_writer(tmp_path / "x.sqlite", schema)
    writer.apply([("put", {"a": 1, "b": "x", "unused": None}), ("nothing", {})])
    reader = open_reader(tmp_path / "x.sqlite")
    assert reader.rows("SELECT a, b FROM t") == [(1, "x!")]
    assert reader.records("SELECT b FROM t WHERE a = :a", {"a": 1}) == [{"b": "x!"}]
    reader.close()
    writer.close()


def test_a_failing_statement_undoes_the_whole_batch(tmp_path: Path, schema: Path) -> None:
    writer = open_writer(tmp_path / "x.sqlite", schema)
    with pytest.raises(StorageFailed):
        writer.apply([("put", {"a": 1, "b": "x"}), ("put", {"a": 1, "b": "y"})])
    with pytest.raises(UnknownStatement):
        writer.apply([("put", {"a": 1, "b": "x"}), ("absent", {})])
    assert writer.rows("SELECT * FROM t") == []
    writer.close()


@pytest.mark.parametrize("count", [1, TOGETHER - 1, TOGETHER, 2 * TOGETHER, 3 * TOGETHER + 1])
@pytest.mark.parametrize("columns", [("a", "b"), ("b", "c", "a")])
def test_rows_of_one_insert_are_all_there_once_and_the_first_of_a_key_stays(
    tmp_path: Path, schema: Path, columns: tuple[str, ...], count: int
) -> None:
    (schema / "rows" / "one.sql").write_text("INSERT OR IGNORE INTO t (a, b)\nVALUES (:a,\n    :b);\n")
    (schema / "rows" / "strict.sql").write_text("INSERT INTO t (a, b) VALUES (:a, :b);\n")
    writer = open_writer(tmp_path / "t.sqlite", schema)
    for name in ("one", "strict"):
        writer.lay_out(name, columns)
    rows = [{"a": n, "b": f"{n}!", "c": None} for n in range(count)]
    placed = [tuple(row[column] for column in columns) for row in [*rows, {"a": 0, "b": "again", "c": None}]]
    writer.apply_runs([("one", placed)])
    assert writer.rows("SELECT a, b FROM t ORDER BY a") == [(row["a"], row["b"]) for row in rows]
    writer.apply_runs([("strict", [tuple({**row, "a": 500 + row["a"]}[c] for c in columns) for row in rows])])
    assert writer.rows("SELECT a - 500, b FROM t WHERE a >= 500") == [(row["a"], row["b"]) for row in rows]
    with pytest.raises(StorageFailed, match="strict"):  # the last of many: none of them is kept
        writer.apply_runs([("strict", [tuple({**row, "a": 1000 + row["a"]}[c] for c in columns) for row in rows]),
                           ("strict", placed[-1:])])  # fmt: skip
    assert writer.rows("SELECT count(*) FROM t") == [(2 * count,)]
    writer.close()


def test_several_rows_are_one_statement_only_where_that_says_the_same() -> None:
    assert together("INSERT INTO t (a, b) VALUES (?, ?);") == "INSERT INTO t (a, b) VALUES (?, ?)" + ", (?, ?)" * (
        TOGETHER - 1
    )
    for sql in (
        "INSERT INTO t (a) SELECT ?",
        "INSERT INTO t (a) VALUES ((SELECT count(*) FROM t WHERE a = ?))",
        "INSERT OR REPLACE INTO t (a) VALUES (?)",
        "INSERT INTO t (a) VALUES (?) ON CONFLICT DO NOTHING",
        "DELETE FROM t WHERE a = ?",
    ):
        assert together(sql) is None, sql


def test_a_reader_cannot_write(tmp_path: Path, schema: Path) -> None:
    open_writer(tmp_path / "x.sqlite", schema).close()
    reader = open_reader(tmp_path / "x.sqlite")
    with pytest.raises(StorageFailed):
        reader.rows("INSERT INTO t VALUES (1, 'x')")
    reader.close()


def test_the_file_is_synced_private_and_forgets_what_is_deleted(tmp_path: Path, schema: Path) -> None:
    writer = open_writer(tmp_path / "x.sqlite", schema)
    pragmas = [
        writer.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
    ]
    assert pragmas == ["wal", 2, 1, 1]
    assert (tmp_path / "x.sqlite").stat().st_mode & 0o777 == 0o600
    writer.close()


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, schema: Path) -> None:
    (schema / "0002_second.sql").write_text("CREATE TABLE u (a INTEGER) STRICT;")
    open_writer(tmp_path / "x.sqlite", schema).close()
    (schema / "0002_second.sql").unlink()
    with pytest.raises(SchemaError, match="newer"):
        open_writer(tmp_path / "x.sqlite", schema)


def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path, schema: Path) -> None:
    open_writer(tmp_path / "x.sqlite", schema).close()
    (schema / "0002_second.sql").write_text("CREATE TABLE u (a INTEGER) STRICT; CREATE TABLE t (a INTEGER);")
    with pytest.raises(SchemaError, match="migration 2"):
        open_writer(tmp_path / "x.sqlite", schema)
    (schema / "0002_second.sql").unlink()
    writer = open_writer(tmp_path / "x.sqlite", schema)
    assert writer.rows("SELECT name FROM sqlite_master WHERE name = 'u'") == []
    writer.close()


def test_a_statement_without_its_semicolon_is_refused() -> None:
    assert split("-- only words\n") == ()
    assert split("SELECT ';' ;\nSELECT 2;") == ("SELECT ';' ;", "SELECT 2;")
    with pytest.raises(ValueError, match="semicolon"):
        split("SELECT 1")


def test_order_matters_where_one_writes_what_the_other_touches(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "x.sqlite", ROOT / "projections" / "cmk")
    assert "SystemRegistered" in writer.conflicts("SystemConfigured")
    assert "SystemConfigured" in writer.conflicts("SystemRegistered")
    assert {"ApproversSet", "RootKeyLinked"} <= writer.conflicts("TenantConfigurationUpdated")
    assert not {"WorkloadEnrolled", "event_routine", "mark_routine"} & writer.conflicts("TenantConfigurationUpdated")
    with pytest.raises(UnknownStatement):
        writer.conflicts("absent")


def test_a_commit_that_is_not_synced_is_seen_at_once_and_the_next_one_is_synced_again(tmp_path: Path) -> None:
    folder = tmp_path / "schema"
    (folder / "rows").mkdir(parents=True)
    (folder / "0001_schema.sql").write_text("CREATE TABLE t (x INTEGER) STRICT;")
    (folder / "rows" / "add.sql").write_text("INSERT INTO t VALUES (:x);")
    writer = open_writer(tmp_path / "db", folder)
    levels = []
    writer._connection.set_trace_callback(
        lambda sql: (
            levels.append(writer._connection.execute("PRAGMA synchronous").fetchone()[0])
            if sql.startswith("BEGIN")
            else None
        )
    )
    for synced in (True, False, True):
        writer.apply([("add", {"x": 1})], synced=synced)
    with pytest.raises(StorageFailed):
        writer.apply([("add", {})], synced=False)
    writer.apply([("add", {"x": 1})])
    reader = open_reader(tmp_path / "db")
    assert reader.rows("SELECT count(*) FROM t") == [(4,)]
    assert levels == [2, 1, 2, 1, 2]
    changes: list[str] = []
    writer.apply([("add", {"x": 1})], synced=False)
    writer._connection.set_trace_callback(changes.append)
    writer.apply([("add", {"x": 1})], synced=False)
    writer.make(["CREATE TABLE u (y INTEGER) STRICT"])
    assert [sql for sql in changes if sql.startswith("PRAGMA")] == ["PRAGMA synchronous = 2"]
    reader.close()
    writer.close()
