"""What is spooled survives, and nothing damaged is passed over."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from openkcm.bus.spool import RESERVE_BYTES, Spool, SpoolDamaged, Spooled


def message(body: bytes = b"revoke") -> Spooled:
    return Spooled(
        id=str(uuid.uuid4()),
        subject="kcm.decree.eu-frankfurt.acme.critical.residence.acme",
        tag="AccessRevoked.1",
        body=body,
        at_ms=1,
    )


def test_messages_come_back_oldest_first_after_a_new_start(tmp_path: Path) -> None:
    spool, kept = Spool(tmp_path), [message(b"%d" % n) for n in range(12)]
    for one in kept:
        spool.put(one)
        spool.put(one)  # the same again is kept once
    assert len(spool) == 12
    assert Spool(tmp_path).entries() == kept
    again = Spool(tmp_path)
    again.remove(kept[0].id)
    again.remove(kept[0].id)
    newest = message()
    again.put(newest)
    assert Spool(tmp_path).entries() == [*kept[1:], newest]


def test_a_message_put_just_before_kill_9_is_there(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from openkcm.bus.spool import Spool, Spooled\n"
        "Spool(pathlib.Path(sys.argv[1])).put(Spooled(id=sys.argv[2], subject='s', tag='T.1', body=b'x'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    id_ = str(uuid.uuid4())
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), id_], check=False)
    assert done.returncode == -9
    assert [one.id for one in Spool(tmp_path).entries()] == [id_]


def test_a_half_written_leftover_is_dropped_and_disturbs_nothing(tmp_path: Path) -> None:
    kept = message()
    Spool(tmp_path).put(kept)
    leftover = tmp_path / f"000000000002-{uuid.uuid4()}.new"
    leftover.write_bytes(b'{"sha256":"ab')
    assert Spool(tmp_path).entries() == [kept]
    assert not leftover.exists()


def test_a_damaged_message_stops_the_start_and_names_the_file(tmp_path: Path) -> None:
    Spool(tmp_path).put(message())
    (file,) = tmp_path.glob("*.json")
    whole = file.read_bytes()
    for damaged in (whole[:-9], b"", whole.replace(b"AccessRevoked", b"AccessResumed"), b"{}"):
        file.write_bytes(damaged)
        with pytest.raises(SpoolDamaged, match=file.name):
            Spool(tmp_path)
    file.write_bytes(whole)
    assert len(Spool(tmp_path)) == 1


def test_an_id_with_another_body_or_that_is_none_is_refused(tmp_path: Path) -> None:
    spool, kept = Spool(tmp_path), message()
    spool.put(kept)
    with pytest.raises(ValueError, match="another"):
        spool.put(Spooled(id=kept.id, subject=kept.subject, tag=kept.tag, body=b"other"))
    with pytest.raises(ValueError, match="not an event id"):
        spool.put(Spooled(id="../../x", subject="s", tag="T.1", body=b""))
    assert Spool(tmp_path).entries() == [kept]


def test_the_reserve_is_freed_when_the_disk_is_full_and_taken_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, reserve = Spool(tmp_path), tmp_path / "reserve"
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    honest = os.fsync

    def full_while_reserved(descriptor: int) -> None:
        if reserve.exists():
            raise OSError(28, "No space left on device")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", full_while_reserved)
    kept = message()
    spool.put(kept)
    assert not reserve.exists()
    monkeypatch.setattr(os, "fsync", honest)
    assert Spool(tmp_path).entries() == [kept]
    assert reserve.stat().st_size == RESERVE_BYTES


def test_a_disk_that_stays_full_is_an_error_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.put(message())
    monkeypatch.undo()
    assert len(spool) == 0
    assert Spool(tmp_path).entries() == []
