"""The region arena: layout, generations, gates, and that a worker can only read."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

import pytest

from openkcm.execution.arena import (
    ALIVE_WORD,
    GATE_OFFSET,
    LEASE_OFFSET,
    SLOT_WORDS,
    SLOTS_WORD,
    ArenaError,
    ArenaFull,
    ArenaMismatch,
    Board,
    Gate,
    GateOpen,
    KeyArena,
    RegionArena,
    Scratch,
    TooLate,
    WorkerArena,
)
from openkcm.execution.keyring import generate


@pytest.fixture
def arena() -> RegionArena:
    return RegionArena(slots=4, workloads=3, epochs=8)


def _serve(arena: RegionArena, slot: int) -> None:
    generate(arena.slot_view(slot, arena.generation(slot)))
    assert arena.open_gate(slot, arena.generation(slot))


def test_the_words_lie_where_the_layout_says(arena: RegionArena) -> None:
    slot, workload = arena.allocate(), arena.allocate_workload()
    _serve(arena, slot)
    arena.set_lease(slot, 77)
    arena.set_alive(99)
    arena.set_workload(workload, Gate.OPEN)
    arena.bump_epoch("acme", "object-1")
    w = arena.words
    assert list(w[0:5]) == [0x4F4B434D00000001, 99, 4, 3, 8]
    base = SLOTS_WORD + slot * SLOT_WORDS
    assert w[base + GATE_OFFSET] == Gate.OPEN
    assert w[base + LEASE_OFFSET] == 77
    assert w[512 + 4 * 8 + workload] == Gate.OPEN
    assert w[512 + 4 * 8 + 3 + zlib.crc32(b"acme/object-1") % 8] == 1


def test_a_worker_reads_what_the_custodian_writes_at_once(arena: RegionArena) -> None:
    worker = WorkerArena(os.dup(arena.fd), arena.size, arena.mode)
    slot = arena.allocate()
    gate, key = worker.gate_index(slot), worker.key(slot)
    assert key.readonly
    _serve(arena, slot)
    assert worker.words[gate] & 0xFF == Gate.OPEN
    assert bytes(key) != bytes(32)
    before = worker.words[worker.epoch_index("acme", "a")]
    arena.bump_epoch("acme", "a")
    assert worker.words[worker.epoch_index("acme", "a")] == before + 1
    arena.close_gates([slot], Gate.LOCKED)
    assert worker.words[gate] & 0xFF == Gate.LOCKED
    arena.zeroize(slot)
    assert bytes(key) == bytes(32)
    arena.set_alive(5)
    assert worker.words[ALIVE_WORD] == 5


def test_a_full_arena_says_so_and_takes_nothing(arena: RegionArena) -> None:
    arena.allocate()
    with pytest.raises(ArenaFull, match="key_slots"):
        arena.allocate_many(4)
    assert arena.free == 3
    assert len(arena.allocate_many(3)) == 3
    with pytest.raises(ArenaFull):
        arena.allocate()
    cells = KeyArena(cells=1)
    cells.allocate()
    with pytest.raises(ArenaFull):
        cells.allocate()


def test_a_slot_is_used_again_only_wiped_and_under_a_higher_generation(arena: RegionArena) -> None:
    slots = arena.allocate_many(4)
    _serve(arena, slots[0])
    arena.set_lease(slots[0], 10)
    generation = arena.generation(slots[0])
    with pytest.raises(GateOpen):
        arena.release(slots[0])
    assert arena.gate(slots[0]) is Gate.OPEN
    arena.close_gates([slots[0]])
    arena.release(slots[0])
    assert arena.allocate() == slots[0]
    assert arena.generation(slots[0]) > generation
    assert arena.gate(slots[0]) is Gate.EMPTY
    assert arena.words[SLOTS_WORD + slots[0] * SLOT_WORDS + LEASE_OFFSET] == 0
    assert bytes(arena.slot_view(slots[0], arena.generation(slots[0]))) == bytes(32)


def test_a_slot_given_back_twice_is_an_error(arena: RegionArena) -> None:
    slot = arena.allocate()
    arena.release(slot)
    with pytest.raises(ArenaError, match="free already"):
        arena.release(slot)
    assert arena.free == 4


def test_an_unseal_begun_before_a_revocation_cannot_resurrect_a_key(arena: RegionArena) -> None:
    slot = arena.allocate()
    ordered_under = arena.generation(slot)  # an unseal starts here
    arena.close_gates([slot], Gate.REVOKED)
    arena.zeroize(slot)
    arena.raise_generation(slot)
    with pytest.raises(TooLate):  # and its key arrives here
        arena.slot_view(slot, ordered_under)
    assert arena.open_gate(slot, ordered_under) is False
    assert arena.gate(slot) is Gate.REVOKED


def test_a_key_that_was_written_before_the_revocation_opens_no_gate_after_it(arena: RegionArena) -> None:
    slot = arena.allocate()
    ordered_under = arena.generation(slot)
    generate(arena.slot_view(slot, ordered_under))
    arena.raise_generation(slot)
    assert arena.open_gate(slot, ordered_under) is False
    assert arena.gate(slot) is Gate.EMPTY


def test_the_same_holds_for_a_tenant_key_in_the_custodians_own_arena() -> None:
    cells = KeyArena(cells=2)
    cell = cells.allocate()
    ordered_under = cells.generation(cell)
    generate(cells.view(cell, ordered_under))
    cells.zeroize(cell)
    assert bytes(cells.view(cell)) == bytes(32)
    with pytest.raises(TooLate):
        cells.view(cell, ordered_under)


def test_a_slot_of_zeros_never_opens(arena: RegionArena) -> None:
    slot = arena.allocate()
    with pytest.raises(ArenaError, match="holds no key"):
        arena.open_gate(slot, arena.generation(slot))
    assert arena.gate(slot) is Gate.EMPTY


def test_a_key_in_use_is_never_written_over(arena: RegionArena) -> None:
    slot = arena.allocate()
    _serve(arena, slot)
    with pytest.raises(GateOpen):
        arena.slot_view(slot, arena.generation(slot))


def test_closing_with_a_state_that_closes_nothing_is_refused(arena: RegionArena) -> None:
    slot = arena.allocate()
    with pytest.raises(ValueError):
        arena.close_gates([slot], Gate.OPEN)


def test_closing_one_gate_changes_no_other_slot(arena: RegionArena) -> None:
    a, b = arena.allocate_many(2)
    _serve(arena, a)
    _serve(arena, b)
    mine = list(arena.words[SLOTS_WORD + b * SLOT_WORDS : SLOTS_WORD + (b + 1) * SLOT_WORDS])
    arena.close_gates([a])
    arena.zeroize(a)
    arena.raise_generation(a)
    assert list(arena.words[SLOTS_WORD + b * SLOT_WORDS : SLOTS_WORD + (b + 1) * SLOT_WORDS]) == mine


def test_a_removed_workloads_word_comes_back_under_a_higher_generation(arena: RegionArena) -> None:
    index = arena.allocate_workload()
    arena.set_workload(index, Gate.OPEN)
    session_holds = arena.words[arena._workload(index)]
    with pytest.raises(GateOpen):
        arena.release_workload(index)
    arena.close_workloads([index])
    assert arena.workload(index) is Gate.REMOVED
    arena.release_workload(index)
    for _ in range(3):
        again = arena.allocate_workload()
        arena.set_workload(again, Gate.OPEN)
        assert again != index or arena.words[arena._workload(again)] != session_holds


@pytest.mark.parametrize("slot", [-1, 4, 1 << 40])
def test_an_index_outside_reaches_nothing(arena: RegionArena, slot: int) -> None:
    before = arena.words.tobytes()
    for act in (arena.zeroize, arena.raise_generation, lambda s: arena.set_gate(s, Gate.OPEN), arena.release):
        with pytest.raises(IndexError):
            act(slot)
    assert arena.words.tobytes() == before


def test_what_is_no_arena_is_refused() -> None:
    from openkcm.execution import secretmem

    fd, mode = secretmem.create(8192)
    with pytest.raises(ArenaMismatch):
        WorkerArena(fd, 8192, mode)


WORKER = """
import ctypes, json, mmap, os, sys
from openkcm.execution.arena import WorkerArena
fd, size, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
arena = WorkerArena(fd, size, mode)
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
address = arena._mapping.address
out = {"sealed": arena.sealed, "mprotect": libc.mprotect(address, size, 3), "munmap": libc.munmap(address, size)}
try: arena.words[1] = 1; out["write"] = "written"
except TypeError: out["write"] = "refused"
try: os.fstat(fd); out["fd"] = "open"
except OSError: out["fd"] = "closed"
print(json.dumps(out), flush=True)
ctypes.memset(address, 1, 1)   # SIGSEGV
print("wrote", flush=True)
"""


@pytest.mark.parametrize("mode", ["memfd_secret", "mlock"])
def test_a_worker_can_neither_write_the_arena_nor_make_it_writable(mode: str) -> None:
    import json

    arena = RegionArena(slots=4, workloads=1, epochs=1, prefer=mode)  # type: ignore[arg-type]
    before = arena.words.tobytes()
    child = subprocess.run(
        [sys.executable, "-c", WORKER, str(arena.fd), str(arena.size), arena.mode],
        pass_fds=[arena.fd], capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    said = json.loads(child.stdout.splitlines()[0])
    if not said["sealed"]:
        pytest.skip("this kernel has no mseal(2)")
    assert said == {"sealed": True, "mprotect": -1, "munmap": -1, "write": "refused", "fd": "closed"}
    assert child.returncode == -11
    assert "wrote" not in child.stdout
    assert arena.words.tobytes() == before


def test_the_custodian_wipes_a_workers_scratch_without_its_help() -> None:
    scratch = Scratch()
    theirs = Scratch.attach(os.dup(scratch.fd), scratch.mode)
    scratch.hand_over()
    theirs.view[0:32] = b"\xaa" * 32
    scratch.wipe()
    assert bytes(theirs.view) == bytes(4096)
    scratch.close()


def test_a_dead_workers_counter_is_even_for_its_successor() -> None:
    board = Board(2)
    theirs = Board(2, fd=os.dup(board.fd))
    theirs.words[theirs.start(1)] = 7
    assert board.counter(1) == 7
    board.reset(1)
    assert board.counter(1) == 8
    board.reset(1)
    assert (board.counter(0), board.counter(1)) == (0, 8)
