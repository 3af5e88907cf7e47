"""A CMK starts from a signed snapshot and reads the tail alone; one that is not what was signed is refused, out loud."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from governance_ledger import CMK, ROGUE, TRUST
from governance_stack import Idp, configuration, issuer, running_cmk
from openkcm.audit import replay
from openkcm.cli import snapshot as maker
from openkcm.contract import checkpoint as cp
from openkcm.contract import snapshot
from openkcm.contract.snapshot import Snapshot, SnapshotError, SnapshotTree
from openkcm.governance.service import open_cmk
from openkcm.governance.snapshot import FILE, NOTE
from openkcm.projector.copying import described
from openkcm.projector.ledger import LEDGER_TABLES, Projection
from orbital_fixture import Orbital, orbital

__all__ = ["orbital"]
NAME = cp.ledger_name(TRUST.public_key)
KEYS = {CMK.key_id: CMK.public_key}


@pytest.fixture(scope="module")
def idp() -> Iterator[Idp]:
    with issuer() as one:
        yield one


@pytest.fixture
async def made(orbital: Orbital, idp: Idp, tmp_path: Path) -> Path:
    """A snapshot of a CMK that has read some of a ledger; it goes on by a tenant afterwards."""
    home = tmp_path / "first"
    async with running_cmk(orbital, idp, home) as stack:
        await stack.tenant()
        await stack.cmk.projected(await stack.last())
        maker.write(stack.cmk.configuration, tmp_path / "made")
        await stack.tenant()
    return tmp_path / "made"


def laid(made: Path, home: Path) -> Path:
    home.mkdir()
    shutil.copytree(made, home / "snapshot")
    return home / "snapshot"


async def started(orbital: Orbital, idp: Idp, home: Path) -> tuple[int, replay.Tables, replay.Tables]:
    """Start a CMK there; return how many events it took from the ledger, its tables, and what the ledger makes."""
    configured = configuration(orbital, idp, home)
    taken: list[int] = []
    apply = Projection.apply

    def counted(self: Projection, messages, **how):
        taken.extend(m.sequence for m in messages)
        return apply(self, messages, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Projection, "apply", counted)
        cmk = await open_cmk(configured)
        try:
            stored = [s async for s in cmk.ledger.read_all()]
        finally:
            await cmk.close()
    read = len(taken)
    _, tables = replay.tables_of(Path(configured.registry))
    return read, tables, replay.folded(stored, TRUST.public_key)


async def test_a_cmk_starts_from_it_and_reads_the_tail_alone(
    orbital: Orbital, idp: Idp, made: Path, tmp_path: Path
) -> None:
    laid(made, tmp_path / "second")
    read, tables, ledger = await started(orbital, idp, tmp_path / "second")
    said = snapshot.opened((made / NOTE).read_text(), NAME, KEYS)
    assert 0 < read == ledger["cursor"][0][1] - said.sequence
    assert replay.compare(ledger, tables) == []


def flipped(folder: Path) -> None:
    database = sqlite3.connect(folder / FILE)
    database.execute("UPDATE tenant SET at_ms = at_ms + 1")
    database.commit()
    database.close()


def by_a_stranger(folder: Path) -> None:
    said = snapshot.opened((folder / NOTE).read_text(), NAME, KEYS)
    (folder / NOTE).write_text(snapshot.signed(said, ROGUE))


def changed_words(folder: Path) -> None:
    text = (folder / NOTE).read_text()
    sequence = text.split("\n")[1]
    (folder / NOTE).write_text(text.replace(f"\n{sequence}\n", f"\n{int(sequence) - 1}\n", 1))


def cut(folder: Path) -> None:
    raw = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(raw[: len(raw) // 2])


def gone(folder: Path) -> None:
    (folder / FILE).unlink()


TAMPERINGS = {
    flipped: "not the file that was signed",
    by_a_stranger: "no key that is in force",
    changed_words: "does not hold",
    cut: "",
    gone: "No such file",
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda f: f.__name__)
async def test_one_that_is_not_what_was_signed_is_refused_and_the_ledger_is_read(
    orbital: Orbital, idp: Idp, made: Path, tmp_path: Path, tamper, caplog: pytest.LogCaptureFixture
) -> None:
    tamper(laid(made, tmp_path / "second"))
    with caplog.at_level(logging.ERROR):
        read, tables, ledger = await started(orbital, idp, tmp_path / "second")
    assert "REFUSED" in caplog.text
    assert TAMPERINGS[tamper] in caplog.text
    assert read == ledger["cursor"][0][1]
    assert replay.compare(ledger, tables) == []
    assert not (tmp_path / "second" / "snapshot").exists()
    assert (tmp_path / "second" / "snapshot.refused" / NOTE).exists()


async def test_one_of_another_history_is_refused_after_the_tail_was_read(
    orbital: Orbital, idp: Idp, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Signed by governance itself, well formed, and not what the ledger holds: the ledger decides."""
    folder = laid(made, tmp_path / "second")
    database = sqlite3.connect(folder / FILE)
    database.execute(
        "UPDATE event_routine SET id = 'another' WHERE sequence = (SELECT max(sequence) FROM event_routine)"
    )
    database.execute("DELETE FROM event_critical WHERE sequence > (SELECT max(sequence) FROM event_routine)")
    database.commit()
    database.close()
    (folder / NOTE).write_text(snapshot.signed(described(folder / FILE, NAME), CMK))
    with caplog.at_level(logging.ERROR):
        read, tables, ledger = await started(orbital, idp, tmp_path / "second")
    assert "another event than this CMK has read there" in caplog.text
    assert read >= ledger["cursor"][0][1]
    assert replay.compare(ledger, tables) == []


async def test_it_holds_the_ledgers_tables_and_nobodys_session(made: Path) -> None:
    database = sqlite3.connect(made / FILE)
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    filled = {t for t in tables if database.execute(f"SELECT count(*) FROM {t}").fetchone()[0]}
    database.close()
    assert filled <= {*LEDGER_TABLES, "report_cursor"}
    assert {"request", "session", "offered_key", "node_ack"} <= tables


def test_a_note_is_read_back_word_for_word_or_not_at_all() -> None:
    made = Snapshot(
        ledger=NAME, sequence=7, sha256=b"\1" * 32, epoch=1, schema=3,
        trees=(SnapshotTree("eu-frankfurt", 1, 4, b"\2" * 32), SnapshotTree("global", 1, 3, b"\3" * 32)),
    )  # fmt: skip
    text = snapshot.signed(made, CMK)
    assert snapshot.opened(text, NAME, KEYS) == made
    for bad in ("", text[:-1], text.replace("schema 3", "schema x"), text.replace("/snapshot", "/other"),
                text.replace("global 1 3", "global 1"), text.replace("\n7\n", "\n07\n")):  # fmt: skip
        with pytest.raises(SnapshotError):
            snapshot.opened(bad, NAME, KEYS)
    with pytest.raises(SnapshotError):
        snapshot.opened(text, NAME, {ROGUE.key_id: ROGUE.public_key})
