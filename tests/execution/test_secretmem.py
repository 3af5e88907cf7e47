"""Key memory against the real kernel: what a root scan sees, what a fork inherits, what a limit says."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openkcm.execution import secretmem


def _scan(pid: int, needle: bytes) -> int:
    """Count `needle` in everything that root can read of a process's memory."""
    hits = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            if "r" not in line.split()[1] or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            try:
                mem.seek(start)
                hits += mem.read(end - start).count(needle)
            except OSError:
                continue
    return hits


SERVING = """
import sys, os
from openkcm.execution import secretmem
secretmem.harden_process()
half = os.read(0, 64)            # the pattern arrives masked, so that reading it leaves no copy of it
heap = bytearray(len(half))
for i, b in enumerate(half): heap[i] = b ^ 0x5A
if sys.argv[1] != "heap":
    fd, mode = secretmem.create(4096, prefer=sys.argv[1]); m = secretmem.attach(fd, 4096, mode, writable=True); os.close(fd)
    m.view[100:100 + len(heap)] = heap
    secretmem.wipe(memoryview(heap))
print("ready", flush=True)
sys.stdin.read()
"""


def _serve(where: str, pattern: bytes) -> int:
    child = subprocess.Popen([sys.executable, "-c", SERVING, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin
    assert child.stdout
    child.stdin.write(bytes(b ^ 0x5A for b in pattern))
    child.stdin.flush()
    try:
        assert child.stdout.readline() == b"ready\n"
        return _scan(child.pid, pattern)
    finally:
        child.communicate(timeout=10)


@pytest.mark.skipif(os.geteuid() != 0, reason="scanning another process needs root")
def test_a_root_scan_finds_a_key_in_ordinary_memory_but_not_in_secret_memory() -> None:
    pattern = os.urandom(32)
    assert _serve("heap", pattern) >= 1  # the control: the scanner does see what can be seen
    assert _serve("memfd_secret", pattern) == 0


def test_zeroize_clears_exactly_what_it_names() -> None:
    fd, mode = secretmem.create(4096)
    m = secretmem.attach(fd, 4096, mode, writable=True)
    os.close(fd)
    m.view[:] = b"\xff" * 4096
    m.zeroize(64, 32)
    assert bytes(m.view[60:100]) == b"\xff" * 4 + bytes(32) + b"\xff" * 4
    for offset, length in ((-1, 4), (4090, 10), (0, -1)):
        with pytest.raises(ValueError):
            m.zeroize(offset, length)
    assert bytes(m.view[96:]) == b"\xff" * 4000
    m.close()


def test_wipe_reaches_any_writable_buffer_and_no_read_only_one() -> None:
    raw = bytearray(b"k" * 40)
    secretmem.wipe(memoryview(raw)[4:36])
    assert raw == b"k" * 4 + bytes(32) + b"k" * 4
    with pytest.raises(TypeError):
        secretmem.wipe(memoryview(b"constant"))


def test_a_forked_child_does_not_inherit_the_mapping() -> None:
    fd, mode = secretmem.create(4096)
    m = secretmem.attach(fd, 4096, mode, writable=True)
    os.close(fd)
    pid = os.fork()
    if not pid:
        faulthandler.disable()
        ctypes.string_at(m.address, 1)  # dies of SIGSEGV
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSEGV
    m.close()


def test_the_fall_back_is_reported_and_can_be_refused() -> None:
    fd, mode = secretmem.create(4096, prefer="mlock")
    assert mode == "mlock"
    m = secretmem.attach(fd, 4096, mode, writable=True)
    os.close(fd)
    entry = Path("/proc/self/smaps").read_text().partition(f"{m.address:x}-")[2]
    flags = entry.partition("VmFlags:")[2].partition("\n")[0].split()
    assert {"lo", "dd", "dc"} <= set(flags)  # locked, not dumped, not copied by fork
    m.close()
    with pytest.raises(secretmem.SecretMemoryUnavailable, match="require_secretmem"):
        secretmem.create(4096, require_secretmem=True, prefer="mlock")


def test_a_limit_that_is_too_low_is_named() -> None:
    code = """
import os, resource
from openkcm.execution import secretmem
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, 8192))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for mode in ("memfd_secret", "mlock"):
    fd, mode = secretmem.create(1 << 20, prefer=mode)
    try: secretmem.attach(fd, 1 << 20, mode, writable=True)
    except secretmem.LockLimitTooLow as e: print(mode, e)
"""
    if os.geteuid() != 0:
        pytest.skip("needs to give root away: root is exempt from the limit")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True).stdout
    assert out.count("RLIMIT_MEMLOCK is 8192") == 2, out


def test_a_hardened_process_dumps_no_core_and_is_not_dumpable() -> None:
    code = """
import ctypes, resource
from openkcm.execution import secretmem
secretmem.harden_process()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True).stdout
    assert out.split("\n")[0] == "(0, 0) 0"


def test_bind_now_runs_the_same_command_again_and_only_once() -> None:
    code = "import os, sys; from openkcm.execution.secretmem import bind_now; bind_now(); print(os.environ['LD_BIND_NOW'], sys.argv[1])"
    env = {k: v for k, v in os.environ.items() if k != "LD_BIND_NOW"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, "word"],
        env=env,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "1 word\n"


def test_a_child_of_a_dead_parent_leaves_before_it_does_anything() -> None:
    code = "from openkcm.execution.secretmem import die_with_parent; die_with_parent(1 << 30); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (3, b"")
