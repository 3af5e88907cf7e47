"""A root's scan of processes for keys: `python scanner.py < ORDER`. A program of its own; imports nothing of the product.

Reads every readable mapping of every named process, by /proc/PID/mem and by process_vm_readv(2), and searches it (or
files: core dumps) for each secret raw, in halves, in hex, in base64 in three alignments, and as AES round keys, both as
encryption uses them and as decryption does (FIPS 197, sections 5.2 and 5.3.5).

ORDER on stdin: {"secrets": {name: hex}, "pids": [..], "files": [..]}. Answer on stdout: {"hits": [..], "bytes": n,
"unreadable": [mapping, ..]}; a hit says where: {"of", "how", "where", "at", "secret", "shape"}.
"""

from __future__ import annotations

import base64
import ctypes
import json
import mmap
import os
import sys

ROUNDS_SHOWN = 6  # every sixth round key and the last: a schedule is there as a whole or not at all
_NO_MEMORY = ("[vvar", "[vsyscall", "[vdso")
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [ctypes.c_int, ctypes.POINTER(_Iovec), ctypes.c_ulong,
                                   ctypes.POINTER(_Iovec), ctypes.c_ulong, ctypes.c_ulong]  # fmt: skip

# --- AES's key expansion, from FIPS 197 -------------------------------------------------------------------------------


def _double(a: int) -> int:
    return (a << 1 ^ (0x11B if a & 0x80 else 0)) & 0xFF


def _times(a: int, b: int) -> int:
    out = 0
    while b:
        out ^= a if b & 1 else 0
        a, b = _double(a), b >> 1
    return out


def _sbox() -> bytes:
    box = bytearray(256)
    for a in range(256):
        b = next((x for x in range(256) if _times(a, x) == 1), 0)
        for shift in range(5):
            box[a] ^= (b << shift | b >> (8 - shift)) & 0xFF
        box[a] ^= 0x63
    return bytes(box)


_S = _sbox()


def round_keys(key: bytes) -> list[bytes]:
    """All round keys, 16 bytes each, the first ones being the key itself."""
    nk = len(key) // 4
    words = [key[4 * i : 4 * i + 4] for i in range(nk)]
    rcon = 1
    for i in range(nk, 4 * (nk + 7)):
        w = words[-1]
        if i % nk == 0:
            w = bytes(_S[b] for b in w[1:] + w[:1])
            w = bytes([w[0] ^ rcon]) + w[1:]
            rcon = _double(rcon)
        elif nk > 6 and i % nk == 4:
            w = bytes(_S[b] for b in w)
        words.append(bytes(a ^ b for a, b in zip(w, words[i - nk], strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, len(words), 4)]


def inverse(round_key: bytes) -> bytes:
    """A round key as the equivalent inverse cipher has it: InvMixColumns of it."""
    out = bytearray()
    for c in range(0, 16, 4):
        col = round_key[c : c + 4]
        for r in range(4):
            out.append(_times(col[r], 14) ^ _times(col[(r + 1) % 4], 11)
                       ^ _times(col[(r + 2) % 4], 13) ^ _times(col[(r + 3) % 4], 9))  # fmt: skip
    return bytes(out)


def shapes(secret: bytes) -> dict[str, bytes]:
    """What to look for: name of the shape -> bytes. The halves cover the raw key too."""
    out = {"first half": secret[:16], "hex": secret.hex().encode()[:32], "HEX": secret.hex().upper().encode()[:32]}
    if len(secret) > 16:
        out["second half"] = secret[16:32]
    for shift in range(3):
        out[f"base64+{shift}"] = base64.b64encode(b"\0" * shift + secret)[4 : 4 * (len(secret) // 3)][:24]
    if len(secret) in {16, 24, 32}:
        schedule = round_keys(secret)[2:]
        for i, one in enumerate(schedule):
            if i % ROUNDS_SHOWN == 0 or i == len(schedule) - 1:
                out[f"round key {i + 2}"] = one
                if i < len(schedule) - 1:
                    out[f"inverse round key {i + 2}"] = inverse(one)
    return out


# --- reading ----------------------------------------------------------------------------------------------------------


def mappings(pid: int) -> list[tuple[int, int, str]]:
    """(start, end, name) of what the process itself may read."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as lines:  # noqa: PTH123 -- a program of its own
        for line in lines:
            span, rights, *rest = line.split(maxsplit=5)
            name = rest[3].strip() if len(rest) > 3 else "anonymous"
            if rights[0] == "r" and not name.startswith(_NO_MEMORY):
                start, end = (int(x, 16) for x in span.split("-"))
                found.append((start, end, name))
    return found


def by_mem(pid: int, start: int, size: int) -> bytes:
    """Through /proc/PID/mem."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(fd, size, start)
    finally:
        os.close(fd)


def by_readv(pid: int, start: int, size: int) -> bytes:
    """Through process_vm_readv(2)."""
    into = ctypes.create_string_buffer(size)
    local, remote = _Iovec(ctypes.addressof(into), size), _Iovec(start, size)
    got = _libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return into.raw[:got]


WAYS = {"/proc/mem": by_mem, "process_vm_readv": by_readv}


def _search(content, patterns, **where) -> list[dict]:
    hits = []
    for secret, shape, pattern in patterns:
        at = content.find(pattern)
        if at >= 0:
            hits.append({**where, "at": where.get("at", 0) + at, "secret": secret, "shape": shape})
    return hits


def scan(secrets: dict[str, bytes], pids: list[int], files: list[str]) -> dict:
    """Search all of it."""
    patterns = [(name, shape, p) for name, secret in secrets.items() for shape, p in shapes(secret).items()]
    hits: list[dict] = []
    unreadable: set[str] = set()
    total = 0
    seen: set[tuple[int, int]] = set()  # equal bytes need no second search: shared libraries, the other way to read
    for pid in pids:
        for start, end, name in mappings(pid):
            for how, read in WAYS.items():
                try:
                    content = read(pid, start, end - start)
                except (OSError, OverflowError):
                    unreadable.add(name)
                    continue
                total += len(content)
                known = len(content), hash(content)
                if known not in seen:
                    seen.add(known)
                    hits += _search(content, patterns, of=pid, how=how, where=name, at=start)
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content:
            total += len(content)
            hits += _search(content, patterns, of=file, how="core", where="core dump")
        os.close(fd)
    return {"hits": hits, "bytes": total, "unreadable": sorted(unreadable)}


if __name__ == "__main__":
    order = json.load(sys.stdin)
    given = {name: bytes.fromhex(value) for name, value in order["secrets"].items()}
    json.dump(scan(given, order.get("pids", []), order.get("files", [])), sys.stdout)
