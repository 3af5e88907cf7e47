"""Mutations of an export by somebody who rewrites everything that is not signed, and where they must be found.

The oracle knows nothing of the audit: it compares the events before and after, and says where they first differ.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import uuid
from pathlib import Path

import msgspec
import rfc8785

from audit.sealed_ledger import CMK, ROOT
from openkcm.audit import records
from openkcm.audit.verify import Event
from openkcm.contract import decrees, envelope, subjects
from openkcm.contract.seal import Signer

STRANGER = Signer(b"\x07" * 32)
Entry = tuple[int, str, bytes, str]  # sequence, subject, stored bytes, id


def flip(entries: list[Entry], rnd: random.Random) -> None:
    at = rnd.randrange(len(entries))
    sequence, subject, body, id_ = entries[at]
    changed = bytearray(body)
    changed[rnd.randrange(len(changed))] ^= 1 << rnd.randrange(8)
    entries[at] = sequence, subject, bytes(changed), id_


def truncate(entries: list[Entry], rnd: random.Random) -> None:
    at = rnd.randrange(len(entries))
    sequence, subject, body, id_ = entries[at]
    entries[at] = sequence, subject, body[: rnd.randrange(len(body))], id_


def delete(entries: list[Entry], rnd: random.Random) -> None:
    del entries[rnd.randrange(len(entries))]


def swap(entries: list[Entry], rnd: random.Random) -> None:
    """Two events change places: each seal still holds."""
    a, b = rnd.sample(range(len(entries)), 2)
    (first, *x), (second, *y) = entries[a], entries[b]
    entries[a], entries[b] = (first, *y), (second, *x)


def resign(entries: list[Entry], rnd: random.Random) -> None:
    """An event is changed and sealed by a key that nobody introduced, or by the wrong one of the two that are known."""
    at = rnd.randrange(len(entries))
    sequence, subject, body, id_ = entries[at]
    old = envelope.decode(body)
    wrong = rnd.choice([STRANGER, CMK if old.key == ROOT.key_id else ROOT])
    new = envelope.seal_envelope(msgspec.structs.replace(old, at_ms=old.at_ms + rnd.choice([0, 1])), wrong)
    entries[at] = sequence, subject, envelope.encode(new), id_


def governance_rewrites(entries: list[Entry], rnd: random.Random) -> None:
    """Governance itself changes its own past event and seals it rightly: only what was signed of it knows better."""
    of_governance = [n for n, e in enumerate(entries) if envelope.decode(e[2]).key == CMK.key_id]
    at = rnd.choice(of_governance)
    sequence, subject, body, id_ = entries[at]
    old = envelope.decode(body)
    new = envelope.seal_envelope(msgspec.structs.replace(old, at_ms=old.at_ms + 1), CMK)
    entries[at] = sequence, subject, envelope.encode(new), id_


def reappend(entries: list[Entry], rnd: random.Random) -> None:
    """An old event comes once more, at the end or in the place of another."""
    _, subject, body, id_ = rnd.choice(entries)
    if rnd.random() < 0.5:
        entries.append((entries[-1][0] + 1, subject, body, id_))
    else:
        at = rnd.randrange(len(entries))
        entries[at] = (entries[at][0], subject, body, id_)


def recreate(entries: list[Entry], rnd: random.Random) -> None:
    """The stream is made anew without some events, and numbered from 1 as if nothing had been there."""
    for _ in range(rnd.randrange(1, 4)):
        del entries[rnd.randrange(len(entries))]
    entries[:] = [(n, *rest) for n, (_, *rest) in enumerate(entries, 1)]


def cut(entries: list[Entry], rnd: random.Random) -> None:
    del entries[rnd.randrange(1, len(entries)) :]


def rename(entries: list[Entry], rnd: random.Random) -> None:
    """An event is stored under another id, or under another subject."""
    at = rnd.randrange(len(entries))
    sequence, subject, body, id_ = entries[at]
    if rnd.random() < 0.5:
        entries[at] = sequence, subject, body, str(uuid.UUID(int=rnd.getrandbits(128)))
    else:
        entries[at] = sequence, rnd.choice([e[1] for e in entries if e[1] != subject]), body, id_


MUTATIONS = (flip, truncate, delete, swap, resign, governance_rewrites, reappend, recreate, cut, rename)


def first_difference(before: list[Entry], after: list[Entry]) -> int | None:
    """The lowest sequence at which the two ledgers hold different things; None when they are the same."""
    was, now = {e[0]: e[1:] for e in before}, {e[0]: e[1:] for e in after}
    return min((n for n in was.keys() | now.keys() if was.get(n) != now.get(n)), default=None)


def rewrite(folder: Path, target: Path, entries: list[Entry]) -> Path:
    """A copy of an export with these events, everything unsigned made to fit: records, counts, hashes."""
    shutil.copytree(folder, target)
    (target / "events.ndjson").write_bytes(b"".join(_line(entry) + b"\n" for entry in entries))
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["events"], manifest["last"] = len(entries), entries[-1][0]
    manifest["files"]["events.ndjson"] = hashlib.sha256((target / "events.ndjson").read_bytes()).hexdigest()
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def _line(entry: Entry) -> bytes:
    """The record that fits the stored bytes, as far as these can still be read at all."""
    sequence, subject, body, id_ = entry
    try:
        sealed = envelope.decode(body)
        event = Event(
            sequence=sequence, subject=subjects.parse_decree(subject), envelope=sealed,
            decree=decrees.read(sealed.tag, sealed.data),
        )  # fmt: skip
        record = json.loads(records.cloud_event(event, body))
    except Exception:  # what the bytes were is gone: the rewriter writes what it can
        record = {"type": "openkcm.?", "counter": "0", "data": None, "sequence": str(sequence)}
        record["original"] = base64.b64encode(body).decode()
    return rfc8785.dumps(record | {"id": id_, "subject": subject})
