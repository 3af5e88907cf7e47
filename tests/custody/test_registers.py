"""What a cipher leaves in the processor's vector registers is cleared; read as root reads it, by PTRACE_GETREGSET."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from custody.fork_inside import ATTACH, DETACH
from custody.scanner import round_keys
from openkcm.execution import registers

GETREGSET, NT_X86_XSTATE = 0x4204, 0x202
WORKING = """
import os, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from openkcm.execution import keyring, registers
key = memoryview(bytearray.fromhex(sys.argv[1]))
for line in sys.stdin:
    what, size = line.split()
    iv, data = bytes(12), bytes(int(size))
    if what == "bare":
        AESGCM(key).encrypt(iv, data, b"aad")
    elif what == "cleared":
        AESGCM(key).encrypt(iv, data, b"aad")
        registers.clear()
    elif what == "seal":
        keyring.seal(data, key, b"aad")
    elif what == "unseal":
        sealed = iv + AESGCM(key).encrypt(iv, data, b"aad")
        registers.clear()
        keyring.unseal(sealed, key, b"aad", memoryview(bytearray(data)))
    os.write(1, b"d")
"""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def vector_registers(pid: int) -> bytes:
    """The process's XSAVE area, while it waits."""
    while Path(f"/proc/{pid}/stat").read_text().split()[2] != "S":
        pass
    assert _libc.ptrace(ATTACH, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(pid, 0)
    area = ctypes.create_string_buffer(1 << 14)
    span = _Iovec(ctypes.addressof(area), len(area))
    assert _libc.ptrace(GETREGSET, pid, NT_X86_XSTATE, ctypes.byref(span)) == 0
    _libc.ptrace(DETACH, pid, None, None)
    return area.raw[: span.size]


@pytest.fixture(params=[16, 32])
def worker(request):
    key = os.urandom(request.param)
    process = subprocess.Popen(
        [sys.executable, "-uc", WORKING, key.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )

    def left(what: str, size: int) -> list[int]:
        process.stdin.write(f"{what} {size}\n".encode())
        assert process.stdout.read(1) == b"d"
        seen = vector_registers(process.pid)
        return [i for i, one in enumerate(round_keys(key)) if one in seen]

    left.size = request.param
    yield left
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


root_on_x86 = pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64", reason="reads another process's registers on x86-64, as root"
)


@root_on_x86
def test_no_round_key_is_left_in_a_register(worker):
    assert registers.CLEARS
    sealing = () if worker.size == 16 else (("seal", (32,)), ("unseal", (32,)))
    for what, sizes in (("cleared", (0, 16, 64, 512, 4096)), *sealing):
        for size in sizes:
            assert worker(what, size) == [], (what, size)


@root_on_x86
def test_without_clearing_they_are_there_to_be_read(worker):
    """The control; on processors without AVX-512 OpenSSL takes another path, which may clean up after itself."""
    if " avx512f " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("no AVX-512 here: nothing to compare with")
    assert any(worker("bare", 64) for _ in range(20))  # what the interpreter does before it waits may write over them
