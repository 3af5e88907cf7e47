"""Clears the processor's vector registers, where a cipher leaves its round keys. Knows no key; touches no memory.

OpenSSL's AES-GCM for AVX-512 returns with the whole key schedule, and with it the key, in zmm registers. It stays there
until somebody needs them: a debugger, a core dump and `PTRACE_GETREGSET` show it of an idle process. No call of a
library clears them all, so here are the few instructions that do, chosen by what the processor has. The ABI lets any
callee change these registers. Sources: Intel SDM volume 2 (VZEROALL, VPXORD, PXOR); System V ABI, AMD64.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["CLEARS", "clear"]

_RET: Final = b"\xc3"
_VZEROALL: Final = b"\xc5\xfc\x77"  # registers 0 to 15, in all their length
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _vpxord(register: int) -> bytes:
    """Zero zmm16 to zmm31: EVEX.512.66.0F.W0 EF /r with all three operands the same."""
    high, low = register >> 3 & 1, register & 7
    return bytes([0x62, 0x01 if high else 0xA1, (15 - (register & 15)) << 3 | 5, 0x40, 0xEF, 0xC0 | low << 3 | low])


def _pxor(register: int) -> bytes:
    """Zero xmm0 to xmm15 where there is no AVX: 66 [REX.RB] 0F EF /r."""
    low = register & 7
    return b"\x66" + (b"\x45" if register > 7 else b"") + bytes([0x0F, 0xEF, 0xC0 | low << 3 | low])


def _code(flags: frozenset[str]) -> bytes:
    if "avx512f" in flags:
        return _VZEROALL + b"".join(_vpxord(r) for r in range(16, 32)) + _RET
    if "avx" in flags:
        return _VZEROALL + _RET
    return b"".join(_pxor(r) for r in range(16)) + _RET


def _flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _made() -> Callable[[], None] | None:
    """Return the instructions as a function; None on another architecture, or where no page may become executable."""
    if platform.machine() != "x86_64":
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page.write(_code(_flags()))
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))  # keeps the page: it can never be closed
    if _libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    _kept.append(page)
    return ctypes.PYFUNCTYPE(None)(address)


def _nothing() -> None:
    """Stand in where registers cannot be cleared; `CLEARS` says so."""


_kept: Final[list[mmap.mmap]] = []
_function: Final = _made()
#: Whether `clear` does what it promises on this machine.
CLEARS: Final = _function is not None
#: Zero every vector register of the calling thread (about 0.1 us).
clear: Final[Callable[[], None]] = _function or _nothing
