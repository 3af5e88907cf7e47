"""Memory for keys: memfd_secret(2), its locked fall-back, and a process that leaves no dumps. Knows no key and no slot.

Calls that close a gate or wipe a key keep the interpreter lock (`PyDLL`): giving it up there would let another thread
run for a whole switch interval between the decision and the deed. Sources: memfd_secret(2), mseal(2), membarrier(2).

SecretMemoryError
├── SecretMemoryUnavailable  the kernel has no memfd_secret, and the fall-back was ruled out
└── LockLimitTooLow          RLIMIT_MEMLOCK does not admit the region
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import platform
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Final, Literal

__all__ = [
    "LockLimitTooLow",
    "Mapping",
    "Mode",
    "SecretMemoryError",
    "SecretMemoryUnavailable",
    "attach",
    "bind_now",
    "create",
    "die_with_parent",
    "harden_process",
    "membarrier",
    "membarrier_register",
    "page_aligned",
    "room",
    "wipe",
]

Mode = Literal["memfd_secret", "mlock"]

_MEMFD_SECRET: Final = 447  # the same on every architecture since Linux 5.14
_MSEAL: Final = 462  # the same on every architecture since Linux 6.10
_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283}.get(platform.machine())
_MEMBARRIER_GLOBAL_EXPEDITED: Final = 2
_MEMBARRIER_REGISTER_GLOBAL_EXPEDITED: Final = 4
_FD_CLOEXEC_FLAG: Final = os.O_CLOEXEC
_MADV_DONTFORK: Final = 10
_MADV_DONTDUMP: Final = 16
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_TIMERSLACK: Final = 29
_PYBUF_READ: Final = 0x100
_PYBUF_WRITE: Final = 0x200
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_PARENT_GONE: Final = 3  # exit status of a child whose parent died before the child could tie itself to it

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_locked = ctypes.PyDLL(None, use_errno=True)
_locked.explicit_bzero.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_locked.explicit_bzero.restype = None
_from_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_from_memory.restype = ctypes.py_object
_from_memory.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]


class SecretMemoryError(Exception):
    """Root of the tree."""


class SecretMemoryUnavailable(SecretMemoryError):
    """No memfd_secret here, and `require_secretmem` forbids the fall-back."""


class LockLimitTooLow(SecretMemoryError):
    """RLIMIT_MEMLOCK does not admit the region."""


class Mapping:
    """One mapped region of key memory.

    Attributes:
        view: All of it as bytes, writable only when mapped so.
        words: The same as native 64-bit words.
        mode: "memfd_secret", or "mlock" for the fall-back.
        sealed: mseal(2) holds: neither mprotect nor munmap works on it any more.
    """

    __slots__ = ("address", "mode", "sealed", "size", "view", "words", "writable")

    def __init__(self, address: int, size: int, mode: Mode, *, writable: bool, sealed: bool) -> None:
        self.address, self.size, self.mode, self.writable, self.sealed = address, size, mode, writable, sealed
        self.view: memoryview = _from_memory(address, size, _PYBUF_WRITE if writable else _PYBUF_READ)
        self.words: memoryview = self.view.cast("Q")

    def __repr__(self) -> str:
        return f"<{self.size} bytes of {self.mode}, {'read-write' if self.writable else 'read-only'}>"

    def zeroize(self, offset: int, length: int) -> None:
        """Overwrite with zeros by explicit_bzero(3), which no compiler drops.

        Raises:
            ValueError: Outside the mapping. Nothing was written.
        """
        if not (self.writable and 0 <= offset <= offset + length <= self.size):
            raise ValueError(f"cannot zeroize {length} bytes at {offset} of {self!r}")
        _locked.explicit_bzero(self.address + offset, length)

    def close(self) -> None:
        """Wipe (when writable) and unmap. No slice of `view` may be used afterwards: it would point at nothing."""
        if self.writable:
            self.zeroize(0, self.size)
        self.words.release()
        self.view.release()
        if not self.sealed:
            _check(_libc.munmap(self.address, self.size), "munmap")


def page_aligned(size: int) -> int:
    """Return `size` in bytes, rounded up to whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def create(size: int, *, require_secretmem: bool = False, prefer: Mode = "memfd_secret") -> tuple[int, Mode]:
    """Return a descriptor of `size` fresh zero bytes, and what kind it is. It is closed on exec unless passed on.

    Args:
        size: Bytes, a multiple of the page.
        require_secretmem: Refuse the fall-back.
        prefer: "mlock" skips memfd_secret, to run the fall-back on a kernel that has it.

    Raises:
        SecretMemoryUnavailable: Only the fall-back is left, and it is refused.
    """
    if size <= 0 or size % mmap.PAGESIZE:
        raise ValueError(f"{size} bytes are not whole pages of {mmap.PAGESIZE}")
    if prefer == "memfd_secret":
        fd = _libc.syscall(_MEMFD_SECRET, ctypes.c_uint(_FD_CLOEXEC_FLAG))
        if fd >= 0:
            os.ftruncate(fd, size)
            return fd, "memfd_secret"
    if require_secretmem:
        raise SecretMemoryUnavailable(
            "this kernel offers no memfd_secret(2) and the node's configuration requires it: boot with "
            "secretmem.enable=1 (Linux 5.14 or newer), or set require_secretmem = false"
        )
    fd = os.memfd_create("keys", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd, "mlock"


def attach(fd: int, size: int, mode: Mode, *, writable: bool, seal: bool = False) -> Mapping:
    """Map the region behind `fd`. The descriptor stays open: close it when nobody needs to be given it any more.

    The mapping is not inherited by fork (MADV_DONTFORK); the fall-back is locked and left out of dumps. A writable
    mapping is touched page by page, so that a lack of memory shows here and not as a SIGBUS in the middle of a key.

    Args:
        writable: Otherwise PROT_READ.
        seal: mseal(2) it, where the kernel (6.10) has that; `Mapping.sealed` says whether it holds.

    Raises:
        LockLimitTooLow: RLIMIT_MEMLOCK does not admit it.
        SecretMemoryError: The kernel refuses for another reason.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = _libc.mmap(None, size, protection, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise _refused(ctypes.get_errno(), size)
    try:
        _check(_libc.madvise(address, size, _MADV_DONTFORK), "madvise(DONTFORK)")
        if mode == "mlock":
            _check(_libc.madvise(address, size, _MADV_DONTDUMP), "madvise(DONTDUMP)")
            _lock(address, size)
        if writable:
            words = _from_memory(address, size, _PYBUF_WRITE).cast("Q")
            for page in range(0, size // 8, mmap.PAGESIZE // 8):
                words[page] = words[page]
    except BaseException:
        _libc.munmap(address, size)
        raise
    sealed = seal and _libc.syscall(_MSEAL, ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_ulong(0)) == 0
    return Mapping(address, size, mode, writable=writable, sealed=sealed)


@contextlib.contextmanager
def room(size: int) -> Iterator[memoryview]:
    """Lend `size` bytes of key memory: the process's own page where that is enough, else a mapping made for it.

    Raises:
        SecretMemoryError: See `attach`.
    """
    if size > len(_page().view):
        whole = page_aligned(size)
        fd, mode = create(whole)
        try:
            mapping = attach(fd, whole, mode, writable=True)
        finally:
            os.close(fd)
        try:
            yield mapping.view[:size]
        finally:
            mapping.close()
        return
    try:
        yield _page().view[:size]
    finally:
        _page().zeroize(0, size)


@functools.cache
def _page() -> Mapping:
    fd, mode = create(mmap.PAGESIZE)
    try:
        return attach(fd, mmap.PAGESIZE, mode, writable=True)
    finally:
        os.close(fd)


def wipe(view: memoryview) -> None:
    """Overwrite a writable view, wherever it lies, with zeros by explicit_bzero(3)."""
    size = view.nbytes
    _locked.explicit_bzero(ctypes.addressof((ctypes.c_char * size).from_buffer(view)), size)


def membarrier_register() -> None:
    """Make this process's threads take part in `membarrier`. A worker calls it once, before it maps an arena.

    Raises:
        SecretMemoryError: The kernel lacks it.
    """
    _check(_membarrier(_MEMBARRIER_REGISTER_GLOBAL_EXPEDITED), "membarrier(REGISTER_GLOBAL_EXPEDITED)")


def membarrier() -> None:
    """Return when every running thread of every registered process has passed a full memory barrier (microseconds).

    Raises:
        SecretMemoryError: The kernel lacks it.
    """
    _check(_membarrier(_MEMBARRIER_GLOBAL_EXPEDITED), "membarrier(GLOBAL_EXPEDITED)")


def harden_process() -> None:
    """No core dumps, not attachable by the same user, timers to the nanosecond (the drain sleeps microseconds).

    `PR_SET_DUMPABLE=0` is undone by exec, so every process of the node calls this for itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(SET_DUMPABLE)")
    _check(_libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0), "prctl(SET_TIMERSLACK)")


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the thread that started this process ends; leave at once when that has happened already."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl(SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(_PARENT_GONE)


def bind_now() -> None:
    """Run this very command again with LD_BIND_NOW=1, unless it already is: no symbol is looked up lazily later on.

    Call it first thing in `main`; it does not return when it re-executes.
    """
    if os.environ.get("LD_BIND_NOW") != "1":
        os.environ["LD_BIND_NOW"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- our own command line again


def _lock(address: int, size: int) -> None:
    if _libc.mlock(address, size):
        raise _refused(ctypes.get_errno(), size)


def _membarrier(command: int) -> int:
    if _MEMBARRIER is None:
        raise SecretMemoryError(f"membarrier(2) has no known number on {platform.machine()}")
    return int(_locked.syscall(_MEMBARRIER, command, 0, 0))


def _check(answer: int, what: str) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise SecretMemoryError(f"{what}: {os.strerror(number)}")


def _refused(number: int, size: int) -> SecretMemoryError:
    if number in {errno.EAGAIN, errno.ENOMEM, errno.EPERM}:
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return LockLimitTooLow(
            f"cannot lock {size} bytes ({os.strerror(number)}): RLIMIT_MEMLOCK is {soft} (hard {hard}) bytes for all "
            "locked memory of the process; raise it (ulimit -l, LimitMEMLOCK=) or lower limits.key_slots"
        )
    return SecretMemoryError(f"cannot map {size} bytes of key memory: {os.strerror(number)}")
