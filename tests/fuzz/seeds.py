"""What the fuzzers begin with: real messages made here and now, by our own client and by PyKMIP's, and a dictionary.

Nothing of it is kept in the repository.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from execution.every_request import requests
from execution.kmip_client import create_request
from openkcm.kmip import SUPPORTED_VERSIONS, KmipError, Tag, encode_request, json_text, xml_text
from openkcm.kmip.texts import TYPE_NAMES, write_tag
from openkcm.kmip.ttlv import ItemType, read_item

__all__ = ["dictionary", "names", "plant"]


def messages() -> Iterator[bytes]:
    """Every request in every version that has it, a batch, and PyKMIP's own."""
    every = list(requests("00000000-0000-4000-8000-000000000000").values())
    for version in SUPPORTED_VERSIONS:
        for request in (*every, create_request(name="n")):
            try:
                yield encode_request(request, version=version)
            except KmipError:
                continue  # not in this version
    yield encode_request(*every[:10])
    yield from pykmips()


def pykmips() -> Iterator[bytes]:
    """What PyKMIP writes, from the table that compares its bytes with ours."""
    spec = importlib.util.spec_from_file_location("theirs", Path(__file__).parents[1] / "kmip" / "test_pykmip.py")
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    for payload, ours in theirs.REQUESTS.values():
        for minor in (2, 4):
            version = theirs.ke.KMIPVersion[f"KMIP_1_{minor}"]
            yield theirs.their_message(payload, theirs.OPERATION[type(ours)], minor, version)


def written(target: str, message: bytes) -> bytes:
    """A message as the target takes it."""
    if target == "ttlv":
        return message
    if target == "http":
        head = (
            f"POST /kmip HTTP/1.1\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(message)}\r\n\r\n"
        )
        return head.encode() + message
    return (json_text if target == "json" else xml_text).write(read_item(message))


def plant(target: str, folder: Path) -> int:
    """Write the corpus of a target; return how many files it has."""
    found = {written(target, message) for message in messages()}
    for number, seed in enumerate(sorted(found)):
        (folder / f"{number:04}").write_bytes(seed)
    return len(found)


def names() -> list[bytes]:
    """Return the names of tags and of types."""
    tags = [name for tag in Tag if (name := write_tag(tag))]
    return [name.encode() for name in (*tags, *TYPE_NAMES.values())]


def dictionary(target: str, path: Path) -> None:
    """Write libFuzzer's dictionary: tags with their types as bytes, or names."""
    words: set[bytes]
    if target in {"ttlv", "http"}:
        words = {tag.to_bytes(3, "big") for tag in Tag} | {
            tag.to_bytes(3, "big") + bytes([kind]) for tag in Tag for kind in (1, 2, 5, 7, 8)
        }
        words |= {bytes([kind]) + size.to_bytes(4, "big") for kind in ItemType for size in (0, 4, 8, 16, 1 << 31)}
    else:
        words = {*names()} | {
            b'"tag"',
            b'"type"',
            b'"value"',
            b"0x",
            b"<TTLV tag=",
            b"type=",
            b"value=",
            b"<!DOCTYPE",
            b"&#x",
        }
    path.write_text("".join('"' + "".join(map("\\x{:02x}".format, word)) + '"\n' for word in sorted(words)))
