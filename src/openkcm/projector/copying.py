"""The ledger's tables of a read model as a file of their own, and the hash of a file. Signs nothing.

Only what the ledger alone decides is copied: sessions, answers to requests, offered keys stay where they are, and what
nodes reported is read again from their reports.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from openkcm.contract.resources import ROOT
from openkcm.contract.snapshot import Snapshot, SnapshotTree
from openkcm.projector import statements
from openkcm.projector.database import SchemaError, open_reader, open_writer
from openkcm.projector.ledger import LEDGER_TABLES
from openkcm.projector.trees import heads

__all__ = ["copied", "described", "schema_version"]

SCHEMA = ROOT / "projections" / "cmk"


def schema_version() -> int:
    """Return the last migration that this version knows."""
    return len(statements.migrations(SCHEMA))


def copied(registry: Path, target: Path) -> None:
    """Write the ledger's tables of a read model, as they are at one moment, into a new file.

    Raises:
        ProjectorError: There is no such read model, it is another version's, or the file cannot be written.
        FileExistsError: The file is there already.
    """
    reader = open_reader(registry)
    try:
        version = reader.rows("PRAGMA user_version")[0][0]
    finally:
        reader.close()
    if version != schema_version():
        raise SchemaError(f"{registry.name} is at version {version}; this software is at {schema_version()}")
    target.touch(mode=0o600, exist_ok=False)
    writer = open_writer(target, SCHEMA, synchronous="OFF")
    try:
        indexes = writer.without_indexes(LEDGER_TABLES)
        writer.take_over(registry, LEDGER_TABLES)
        writer.make(indexes)
    finally:
        writer.close()


def described(path: Path, ledger: str) -> Snapshot:
    """Return what is to be signed about a file that `copied` wrote.

    Raises:
        ProjectorError, OSError: It cannot be read.
    """
    reader = open_reader(path)
    try:
        sequence, epoch = reader.rows("SELECT sequence, epoch FROM cursor")[0]
        trees = [SnapshotTree(h.tree, h.epoch, h.edge.size, h.edge.root()) for h in heads(reader)]
        schema = reader.rows("PRAGMA user_version")[0][0]
    finally:
        reader.close()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return Snapshot(
        ledger=ledger, sequence=sequence, sha256=digest, epoch=epoch, schema=schema, trees=tuple(sorted(trees))
    )
