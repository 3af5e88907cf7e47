"""A root's scan of processes for keys: `python scanner.py`, an ORDER a line on stdin, an answer a line on stdout. A
program of its own; imports nothing of the product.

Reads every readable mapping of every named process, by /proc/PID/mem and by process_vm_readv(2), and searches it (or
files: core dumps) for each secret raw, in halves, in hex, in base64 in three alignments, and as AES round keys, both as
encryption uses them and as decryption does (FIPS 197, sections 5.2 and 5.3.5).

It reads all of it each time and searches it piece by piece; a piece whose bytes were searched for the same secret
before (libraries, pages that nobody wrote, the other way to read) is not searched again.

ORDER: {"secrets": {name: hex}, "pids": [..], "files": [..]}. Answer: {"hits": [..], "bytes": n, "searched": n,
"unreadable": [mapping, ..]}; a hit says where: {"of", "how", "where", "at", "secret", "shape"}.
"""

from __future__ import annotations

import base64
import ctypes
import itertools
import json
import mmap
import os
import struct
import sys

PIECE_BYTES = 1 << 16
OVERLAP_BYTES = 31  # the longest shape is 32
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


class Scanner:
    """Searches; remembers for each secret which pieces are known to hold nothing of it."""

    def __init__(self) -> None:
        self._patterns: dict[bytes, dict[str, bytes]] = {}
        self._clean: dict[bytes, set[tuple[int, int]]] = {}
        self.searched = 0

    def scan(self, secrets: dict[str, bytes], pids: list[int], files: list[str]) -> dict:
        """Search all of it."""
        for secret in secrets.values():
            if secret not in self._patterns:
                self._patterns[secret], self._clean[secret] = shapes(secret), set()
        for gone in self._patterns.keys() - set(secrets.values()):
            del self._patterns[gone], self._clean[gone]
        hits: list[dict] = []
        unreadable: set[str] = set()
        total = self.searched = 0
        for pid in pids:
            for start, end, name in mappings(pid):
                for how, read in WAYS.items():
                    try:
                        content = read(pid, start, end - start)
                    except (OSError, OverflowError):
                        unreadable.add(name)
                        continue
                    total += len(content)
                    hits += self._search(secrets, content, of=pid, how=how, where=name, at=start)
        for file in files:
            fd = os.open(file, os.O_RDONLY)
            with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content:
                total += len(content)
                for at, size, address in parts(content):
                    part = content[at : at + size]
                    hits += self._search(secrets, part, of=file, how="core", where="core dump", at=address)
            os.close(fd)
        return {"hits": hits, "bytes": total, "searched": self.searched, "unreadable": sorted(unreadable)}

    def _search(self, secrets: dict[str, bytes], content: bytes, **where) -> list[dict]:
        hits = []
        for at in range(0, len(content), PIECE_BYTES):
            piece = content[at : at + PIECE_BYTES + OVERLAP_BYTES]
            known = len(piece), hash(piece)
            for name, secret in secrets.items():
                if known in self._clean[secret]:
                    continue
                self.searched += len(piece)
                found = {shape: i for shape, p in self._patterns[secret].items() if (i := piece.find(p)) >= 0}
                if not found:
                    self._clean[secret].add(known)
                hits += [{**where, "at": where["at"] + at + i, "secret": name, "shape": x} for x, i in found.items()]
        return hits


def parts(core: mmap.mmap) -> list[tuple[int, int, int]]:
    """(offset, size, address) of a core dump's segments and of what lies between them: all of the file (elf(5))."""
    cuts = {0: 0, len(core): 0}
    if core[:5] == b"\x7fELF\x02":
        (table,), (size, count) = struct.unpack_from("<Q", core, 32), struct.unpack_from("<HH", core, 54)
        for n in range(count):
            _, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", core, table + n * size)
            cuts.setdefault(offset + length, 0)
            cuts[offset] = address
    return [(a, b - a, cuts[a] or a) for a, b in itertools.pairwise(sorted(cuts)) if b <= len(core)]


if __name__ == "__main__":
    scanner = Scanner()
    for line in sys.stdin:
        order = json.loads(line)
        given = {name: bytes.fromhex(value) for name, value in order["secrets"].items()}
        print(json.dumps(scanner.scan(given, order.get("pids", []), order.get("files", []))), flush=True)
