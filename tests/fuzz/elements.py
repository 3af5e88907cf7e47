"""Mutates XML by its elements, so that most of what comes is well-formed and reaches what lies behind the parser.

One in four is mutated as bytes, as without this. Imports no codec: a document is what stands between `<` and `>`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["mutator"]

Mutate = Callable[[bytes, int], bytes]
_PART: Final = re.compile(rb"<[^>]*>")
_GIVEN: Final = re.compile(rb' (\w+)="([^"]*)"')
_NAME: Final = re.compile(rb"(?<=<)\w+")
_NO_XML: Final = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF))
GROWS_BY: Final = 16
EDGES: Final = (
    b"", b"0x", b"0x0", b"-1", b"0x7FFFFFFF", b"0x80000000", b"4294967296", b"0x8000000000000000", b"9" * 20,
    b"0xFFFFFFFFFFFFFFFF", b"true", b"0x1", b"Encrypt Decrypt", b"Encrypt|0x4", b"00", b"80" * 8, b"00" * 9, b"abc",
    b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:60Z", b"1969-12-31T23:59:59.5", b"&#x10FFFF;", b"&#13;&#10;",
    b"1.4", b"x-own", b"Cryptographic Usage Mask",
)  # fmt: skip


def mutator(documents: Sequence[bytes], words: Sequence[bytes], mutate: Mutate) -> Callable[[bytes, int, int], bytes]:
    """Return libFuzzer's custom mutator.

    Args:
        documents: Well-formed ones, whose elements are put into others.
        words: Names of elements and of types.
        mutate: libFuzzer's own, of bytes.
    """
    others = [_PART.findall(document) for document in documents]

    def text(parts: list[bytes], at: int, chance: random.Random) -> None:
        """Change what stands in one attribute."""
        given = list(_GIVEN.finditer(parts[at]))
        if given:
            start, end = chance.choice(given).span(2)
            some = chance.random() < 0.3
            new = chance.choice(EDGES) if some else _in_xml(mutate(parts[at][start:end], end - start + GROWS_BY))
            parts[at] = parts[at][:start] + new + parts[at][end:]

    def word(parts: list[bytes], at: int, chance: random.Random) -> None:
        """Another name, or another type."""
        found = chance.choice([_NAME.search(parts[at]), *_GIVEN.finditer(parts[at])])
        if found is not None:
            start, end = found.span(found.re.groups)
            parts[at] = parts[at][:start] + chance.choice(words) + parts[at][end:]

    def drop(parts: list[bytes], at: int, _chance: random.Random) -> None:
        """Take an element out, with what is in it."""
        del parts[at : _end(parts, at)]

    def move(parts: list[bytes], at: int, chance: random.Random) -> None:
        """Put an element in another place."""
        taken = parts[at : _end(parts, at)]
        del parts[at : at + len(taken)]
        to = chance.randint(min(1, len(parts)), len(parts))
        parts[to:to] = taken

    def again(parts: list[bytes], at: int, chance: random.Random) -> None:
        """Put a copy of an element somewhere else."""
        to = chance.randrange(len(parts))
        parts[to:to] = parts[at : _end(parts, at)]

    def graft(parts: list[bytes], at: int, chance: random.Random) -> None:
        """Put an element of another document here, or in this one's place."""
        other = chance.choice(others)
        first = _some(other, chance)
        parts[at : _end(parts, at) if chance.random() < 0.5 else at] = other[first : _end(other, first)]

    ways = (text, text, text, word, drop, move, again, graft)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        parts = _PART.findall(data)
        if len(parts) < 3 or not chance.randrange(4):
            return mutate(data, max_size)
        for _ in range(chance.randint(1, 3)):
            if len(parts) > 2:
                chance.choice(ways)(parts, _some(parts, chance), chance)
        made = b"".join(parts)
        return made if len(made) <= max_size else mutate(data, max_size)

    return mutated


def _in_xml(raw: bytes) -> bytes:
    """Return bytes as an attribute's text."""
    return escape(raw.decode(errors="replace").translate(_NO_XML), {'"': "&quot;"}).encode()


def _some(parts: list[bytes], chance: random.Random) -> int:
    """Return where some element begins, not the outermost."""
    at = chance.randrange(1, len(parts) - 1)
    while at > 1 and parts[at].startswith(b"</"):
        at -= 1
    return at


def _end(parts: list[bytes], at: int) -> int:
    """Return where the element that begins there is over."""
    depth = 0
    for end in range(at, len(parts)):
        depth += -1 if parts[end].startswith(b"</") else 0 if parts[end].endswith(b"/>") else 1
        if depth <= 0:
            return end + 1
    return len(parts)
