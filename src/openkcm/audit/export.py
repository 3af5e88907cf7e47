"""An export: a folder that proves itself on a machine without NATS and without our code. Writes files; asks nobody.

The ledger was verified and folded before (`Replay`); here its rows are written out. A tenant's export holds its own
events, the trust events that verify them, and nothing else; each event with its inclusion proof, so that what is left
out of the export cannot have been left out of the ledger.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

import msgspec

from openkcm.audit import records
from openkcm.audit.asof import CLOCK
from openkcm.audit.trees import Leaf, Proof
from openkcm.audit.usage import Usage
from openkcm.audit.verify import AuditError, Event
from openkcm.contract import decrees, envelope, merkle, subjects
from openkcm.contract.checkpoint import Note, epoch_of, ledger_name
from openkcm.projector import Reader
from openkcm.projector.trees import StoredTree, leaf_at

__all__ = ["FORMAT", "Exported", "limits", "proof_of", "slice_of", "write"]

FORMAT: Final = "openkcm-export/1"
SHIPPED: Final = Path(__file__).parent / "shipped"
#: A tree and an epoch -> the newest checkpoint that is signed for it.
Checkpoints = Mapping[tuple[str, int], Note]
_PAGE: Final = 5000
_OWN: Final = (
    "(:t IS NULL OR e.tenant = :t OR (e.tenant = '_' AND e.tag NOT LIKE 'AccessDenied.%') "
    "OR EXISTS (SELECT 1 FROM access_denied AS x WHERE x.sequence = e.sequence AND x.tenant = :t))"
)


_WHOLE: Final = """\
It shows every event from the first to the last: one that is missing, changed, swapped or added breaks a seal, a \
counter, a sequence or a root.
It cannot show that nothing came after its last checkpoint. Compare with a checkpoint that a witness of your own has \
seen: a ledger that is shorter, or of another root at that size, was cut or forked."""
_SLICE: Final = """\
It shows every event of {tenant} up to the last one in here: each aggregate's counter has no gap, and each event is a \
leaf under a checkpoint that others can compare.
Gaps between sequences are other tenants' events. That they are lawful, and that no aggregate was left out as a whole, \
a slice cannot show: whoever checks the whole ledger can, and both compare the same checkpoint.
That no event of {tenant} came after the last one is shown only by a later export, or by the nodes' own acks."""


class NotExported(AuditError):
    """The folder is there already, or the ledger has nothing of this tenant."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    folder: str
    tenant: str | None
    events: int
    proven: int
    last: int


def limits(tenant: str | None) -> tuple[str, ...]:
    """Return in plain words what a whole ledger, or one tenant's slice of it, shows and cannot show."""
    return tuple((_WHOLE if tenant is None else _SLICE.format(tenant=tenant)).splitlines())


def slice_of(replay: Reader, tenant: str | None) -> Iterator[tuple[int, str, bytes]]:
    """Yield (sequence, subject, stored bytes) of the whole ledger, or of a tenant's slice, in order."""
    after = 0
    while True:
        rows = replay.rows(
            f"SELECT e.sequence, e.subject, e.body FROM event AS e WHERE e.sequence > :a AND {_OWN} "
            "ORDER BY e.sequence LIMIT :n",
            {"t": tenant, "a": after, "n": _PAGE},
        )
        yield from rows
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


def proof_of(replay: Reader, sequence: int, subject: str, checkpoints: Checkpoints) -> Proof | None:
    """Return the inclusion proof of a stored event, None where no checkpoint covers it yet."""
    tree, epoch = subjects.tree_of(subject), epoch_of(sequence)
    note = checkpoints.get((tree, epoch))
    index = leaf_at(replay, tree, sequence)
    if note is None or index is None or index >= note.checkpoint().size:
        return None
    size = note.checkpoint().size
    path = merkle.inclusion_proof(StoredTree(replay, tree, epoch), index, size)
    return Proof(sequence=sequence, tree=tree, epoch=epoch, index=index, size=size, path=tuple(path))


class _Leaves:
    """Numbers a whole ledger's leaves as they are written."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._sizes = {place: note.checkpoint().size for place, note in checkpoints.items()}
        self._counts: dict[tuple[str, int], int] = {}

    def next(self, sequence: int, subject: str, body: bytes) -> Leaf | None:
        """Return the next event's leaf, None where no checkpoint covers it yet."""
        tree, epoch = place = subjects.tree_of(subject), epoch_of(sequence)
        index = self._counts.get(place, 0)
        self._counts[place] = index + 1
        if index >= self._sizes.get(place, 0):
            return None
        leaf = merkle.ledger_leaf(epoch, sequence, subject, body)
        return Leaf(sequence=sequence, tree=tree, epoch=epoch, index=index, leaf=leaf)


def write(
    folder: Path, replay: Reader, trust_root: bytes, checkpoints: Checkpoints, *, tenant: str | None, made_at: str,
    progress: Callable[[int], None] = lambda _: None, usage: Usage | None = None,
) -> Exported:  # fmt: skip
    """Write the export of a replayed ledger.

    Args:
        folder: Made here.
        tenant: Only this tenant's slice; None writes the whole ledger.
        made_at: RFC 3339, for the record.
        usage: Of a tenant: what its regions hold of the use of its keys; None: they were not asked.

    Raises:
        NotExported: The folder exists, or there is nothing to write.
    """
    if folder.exists():
        raise NotExported(f"{folder} is there already: name a new folder")
    if tenant is not None and not replay.rows("SELECT 1 FROM tenant WHERE tenant = ?", (tenant,)):
        raise NotExported(f"the ledger knows no tenant {tenant}")
    (folder / "checkpoints").mkdir(parents=True)
    events = last = proven = 0
    leaves = _Leaves(checkpoints)
    with (
        (folder / "events.ndjson").open("wb") as lines,
        (folder / "ocsf.ndjson").open("wb") as siem,
        (folder / "proofs.ndjson").open("wb") as proofs,
    ):
        for sequence, subject, body in slice_of(replay, tenant):
            e = envelope.decode(body)
            event = Event(sequence=sequence, subject=subjects.parse_decree(subject), envelope=e,
                          decree=decrees.read(e.tag, e.data))  # fmt: skip
            lines.write(records.cloud_event(event, body) + b"\n")
            siem.write(msgspec.json.encode(records.ocsf(event)) + b"\n")
            proof = (
                leaves.next(sequence, subject, body) if tenant is None
                else proof_of(replay, sequence, subject, checkpoints)
            )  # fmt: skip
            if proof is not None:
                proofs.write(msgspec.json.encode(proof) + b"\n")
                proven += 1
            events, last = events + 1, sequence
            if events % 1000 == 0:
                progress(events)
    if usage is not None:
        (folder / "usage.ndjson").write_bytes(b"".join(line + b"\n" for line in usage.lines))
    trees = _write_checkpoints(folder, checkpoints)
    _write_json(folder / "keys.json", _keys(replay, trust_root))
    words = limits(tenant)
    (folder / "check.py").write_text((SHIPPED / "check.py.txt").read_text(encoding="utf-8"), encoding="utf-8")
    readme = Template((SHIPPED / "README.md.txt").read_text(encoding="utf-8"))
    what = "The whole ledger" if tenant is None else f"The slice of the tenant `{tenant}`"
    (folder / "README.md").write_text(
        readme.substitute(
            what=f"{what}: {events} events up to sequence {last}, made {made_at}.", ocsf=records.OCSF_VERSION,
            trust_root=base64.b64encode(trust_root).decode(), limits="\n".join(f"- {w}" for w in words), clock=CLOCK,
        ),
        encoding="utf-8",
    )  # fmt: skip
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    _write_json(folder / "manifest.json", {
        "format": FORMAT, "ledger": ledger_name(trust_root), "tenant": tenant, "whole": tenant is None,
        "made_at": made_at, "events": events, "last": last, "trees": trees, "clock": CLOCK, "limits": words,
        "files": {p.relative_to(folder).as_posix(): _sha256(p) for p in files},
    })  # fmt: skip
    return Exported(folder=str(folder), tenant=tenant, events=events, proven=proven, last=last)


def _write_checkpoints(folder: Path, checkpoints: Checkpoints) -> list[dict[str, Any]]:
    trees = []
    for (tree, epoch), note in sorted(checkpoints.items()):
        name = f"checkpoints/{tree}-{epoch}.txt"
        (folder / name).write_text(str(note), encoding="utf-8")
        trees.append({"tree": tree, "epoch": epoch, "size": note.checkpoint().size, "checkpoint": name})
    return trees


def _keys(replay: Reader, trust_root: bytes) -> dict[str, Any]:
    signing = replay.records(
        "SELECT k.key, k.public_key, k.sequence AS since, r.sequence AS until FROM signing_key AS k "
        "LEFT JOIN signing_key_retired AS r USING (key) ORDER BY k.sequence"
    )
    nodes = replay.records("SELECT node, region, key, public_key, sequence AS since, removed_at AS until FROM node "
                           "ORDER BY sequence")  # fmt: skip
    return {"trust_root": base64.b64encode(trust_root).decode(), "governance": signing, "nodes": nodes}


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
