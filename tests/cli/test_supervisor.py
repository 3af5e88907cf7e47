"""The supervisor: what dies while starting stops all, what dies later comes back, what is stopped stops in order."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import msgspec
import pytest

from openkcm.cli import supervisor as supervisor_module
from openkcm.cli.supervisor import FULL_BYTES as FULL
from openkcm.cli.supervisor import ROOM_BYTES as ROOM
from openkcm.cli.supervisor import ChildFailed, Program, Supervisor, end_leftover, start_time

SLEEPER = "import time, pathlib, sys; pathlib.Path(sys.argv[1]).write_text('up'); time.sleep(60)"


def program(tmp_path, name, code, *, ready=True):
    log, said = tmp_path / f"{name}.log", tmp_path / f"{name}.ready"

    def start():
        said.unlink(missing_ok=True)
        with log.open("ab") as out:
            return subprocess.Popen([sys.executable, "-c", code, str(said)], stdout=out, stderr=out)

    return Program(name=name, start=start, ready=lambda pid: {"of": pid} if ready and said.exists() else None, log=log)


@pytest.fixture
def supervisor():
    made = []

    def make(**how):
        changes = []
        made.append(Supervisor(strict=how.get("strict", False), changed=lambda: changes.append(1)))
        made[-1].changes = changes
        return made[-1]

    yield make
    for one in made:
        one.stop_all()


def until(so):
    deadline = time.monotonic() + 20
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_that_dies_while_starting_stops_the_start_with_its_last_words(supervisor, tmp_path):
    boss = supervisor()
    good = program(tmp_path, "good", SLEEPER)
    bad = program(tmp_path, "bad", "print('the disk is full', flush=True); raise SystemExit(3)")
    with pytest.raises(ChildFailed, match=r"(?s)bad ended with status 3.*the disk is full"):
        boss.bring_up([good, bad])
    boss.stop_all()
    assert boss.children["good"].process.poll() is not None


def test_a_child_that_is_never_ready_fails_the_start(supervisor, tmp_path):
    with pytest.raises(ChildFailed, match="slow was not ready"):
        supervisor().bring_up([program(tmp_path, "slow", SLEEPER, ready=False)], timeout_s=0.3)


def test_a_child_that_dies_later_comes_back_and_its_facts_are_new(supervisor, tmp_path):
    boss = supervisor()
    boss.bring_up([program(tmp_path, "one", SLEEPER)])
    first = boss.children["one"].pid
    assert boss.children["one"].facts == {"of": first}
    watching = threading.Thread(target=boss.watch)
    watching.start()
    os.kill(first, 9)
    until(lambda: boss.children["one"].pid != first and boss.children["one"].facts)
    boss.ask_to_stop()
    watching.join()
    assert boss.children["one"].restarts == 1
    assert boss.children["one"].facts == {"of": boss.children["one"].pid}
    assert len(boss.changes) >= 4  # started, ready, started again, ready again


def test_a_child_whose_disk_was_full_is_restarted_once_it_has_room_and_not_before(supervisor, tmp_path, monkeypatch):
    boss, left = supervisor(), [ROOM]
    monkeypatch.setattr(supervisor_module.os, "statvfs", lambda _: SimpleNamespace(f_bavail=left[-1], f_frsize=1))
    boss.bring_up([msgspec.structs.replace(program(tmp_path, "one", SLEEPER), store=tmp_path)])
    pids = []
    for free in (FULL, FULL - 1, ROOM, ROOM + 1, ROOM + 1):
        left.append(free)
        boss.watch_once()
        pids.append(boss.children["one"].pid)
    assert len(set(pids[:3])) == 1
    assert pids[3] == pids[4] != pids[0]
    assert boss.children["one"].restarts == 1


def test_the_pause_before_a_restart_doubles(supervisor, tmp_path):
    boss = supervisor()
    code = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text('up'); import time; time.sleep(0.05)"
    boss.bring_up([program(tmp_path, "weak", code)])
    child = boss.children["weak"]
    until(lambda: (boss.watch_once(), child.restarts >= 2)[1])
    assert child.pause_s >= 4 * 0.25


def test_a_strict_supervisor_stops_at_the_first_death(supervisor, tmp_path):
    boss = supervisor(strict=True)
    boss.bring_up([program(tmp_path, "one", SLEEPER)])
    os.kill(boss.children["one"].pid, 9)
    with pytest.raises(ChildFailed, match="one ended with status -9"):
        boss.watch()


def test_children_are_stopped_in_the_reverse_order_of_their_start(supervisor, tmp_path):
    boss, order = supervisor(), tmp_path / "order"
    code = (
        "import pathlib, signal, sys, time\n"
        f"def stop(*_):\n    open({str(order)!r}, 'a').write(pathlib.Path(sys.argv[1]).stem + ' '); sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop)\npathlib.Path(sys.argv[1]).write_text('up')\ntime.sleep(60)\n"
    )
    boss.bring_up([program(tmp_path, "hub", code)])
    boss.bring_up([program(tmp_path, "cmk", code)])
    boss.bring_up([program(tmp_path, "node", code)])
    boss.stop_all()
    assert order.read_text().split() == ["node", "cmk", "hub"]


def test_a_leftover_is_ended_and_a_stranger_with_its_number_is_not(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = start_time(child.pid)
        assert not end_leftover(child.pid, started + 1)
        assert child.poll() is None
        assert end_leftover(child.pid, started)
        assert child.wait(5) == -15
        assert start_time(child.pid) is None
    finally:
        child.kill()
        child.wait()
