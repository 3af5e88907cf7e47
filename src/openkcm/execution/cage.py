"""What a worker may still reach once it has all it needs: a Landlock ruleset, for the day it is taken over.

A worker runs as the same user as its custodian, so by file permissions alone it could read the node's sealing seed and
its bus credential. The ruleset, which no process can ever loosen, leaves it the software itself, the catalogue, and its
own listening port: no other file, no TCP connection to anywhere, no signal to and no tracing of other processes.
Sources: landlock(7); Linux uapi/linux/landlock.h. Needs kernel 6.7 for TCP, 6.12 for signals; less is enforced as far
as the kernel goes, and said.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["enter"]

_CREATE: Final = 444  # the same on every architecture
_ADD: Final = 445
_RESTRICT: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1
_NET_PORT: Final = 2
_PR_SET_NO_NEW_PRIVS: Final = 38
_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_BIND_TCP: Final = 1 << 0
_CONNECT_TCP: Final = 1 << 1
_SCOPE_ALL: Final = 3  # abstract UNIX sockets, signals
#: File rights by ABI version (13 of them at first, then REFER, TRUNCATE, and IOCTL_DEV with 5).
_FS_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_FS_RIGHTS_NOW: Final = 16
NET_SINCE: Final = 4
SCOPE_SINCE: Final = 6
#: Besides Python and this package: the loader's and the C library's, what OpenSSL and a child of ours open.
_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ssl", "/etc/localtime", "/proc/cpuinfo",
                  "/proc/self")  # fmt: skip
_DEVICES: Final = ("/dev/null", "/dev/urandom", "/dev/random")  # RNG Seed writes to the last but one

_libc = ctypes.CDLL(None, use_errno=True)


def enter(files: Iterable[Path], port: int) -> str:
    """Restrict this process and its children for ever; return what is enforced, in words, "" for nothing.

    Args:
        files: Beyond the software: read and written as their permissions allow.
        port: The one TCP port it may listen on.
    """
    abi = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))
    if abi < 1:
        return ""
    rights = (1 << _FS_RIGHTS.get(abi, _FS_RIGHTS_NOW)) - 1
    net = _BIND_TCP | _CONNECT_TCP if abi >= NET_SINCE else 0
    scope = _SCOPE_ALL if abi >= SCOPE_SINCE else 0
    attribute = struct.pack("QQQ", rights, net, scope)[: 24 if scope else 16 if net else 8]
    ruleset = _libc.syscall(_CREATE, attribute, ctypes.c_size_t(len(attribute)), ctypes.c_uint(0))
    if ruleset < 0:
        return ""
    software = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2], *map(Path, _SYSTEM)}
    for path in software:
        _allow(ruleset, path, _READ_FILE | _READ_DIR | _EXECUTE)
    for path in (*files, *map(Path, _DEVICES)):
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    if net and port:
        _libc.syscall(_ADD, ruleset, _NET_PORT, struct.pack("QQ", _BIND_TCP, port), ctypes.c_uint(0))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done = _libc.syscall(_RESTRICT, ruleset, ctypes.c_uint(0)) == 0
    os.close(ruleset)
    words = ["files", *(["tcp"] if net else []), *(["signals"] if scope else [])]
    return ", ".join(words) if done else ""


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this machine: nothing to allow
        return
    try:
        if not path.is_dir():
            rights &= ~_READ_DIR
        _libc.syscall(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), ctypes.c_uint(0))
    finally:
        os.close(fd)
