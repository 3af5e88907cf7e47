"""The ledger folded into SQL rows: judge each message, apply its event's file, move the cursor. Decides no command.

Numbered as in `Projection.judge`:

1. one whole envelope under a decree's subject;
2. sealed for that very subject by governance's key in force, or by the trust root where the event asks for that;
3. on the aggregate and the lane of its class;
4. next in its lane: what was there before is nothing new; after a gap a routine decree changes nothing (nodes freeze),
   a critical one still counts (critical facts are a lattice);
5. readable. Anything else is kept in `rejected` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Final

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from openkcm.contract.errors import ContractError, EnvelopeError
from openkcm.contract.stored import Message
from openkcm.contract.subjects import DecreeSubject
from openkcm.projector.database import SchemaError, Value, Writer
from openkcm.projector.heads import HeadFold
from openkcm.projector.trees import TreeFold

__all__ = ["LEDGER_TABLES", "Applied", "Projection"]

#: What the ledger alone decides: an auditor's replay gives these tables row for row.
LEDGER_TABLES: Final = (
    "cursor", "rejected", "event_routine", "event_critical", "mark_routine", "mark_critical", "ledger_epoch",
    "node_enrolled", "access_denied", "node_removed", "signing_key", "signing_key_retired", "tenant", "person",
    "person_role", "tenant_region", "approval_policy", "agreed", "termination",
    "approval", "approval_grant", "configuration", "lease", "approvers_set",
    "approval_used", "root_key", "registered_system", "workload_authority", "enrolled_workload", "rotation",
    "suspension", "lifted",
    "revocation_confirmed", "revocation", "removed", "emergency_floor", "destruction", "tree", "tile", "critical_head",
)  # fmt: skip
#: A decree's texts and numbers are parameters of its statements by these names; the rest of it is in `:data`, as JSON.
_ITS: Final = {
    k.decree.__name__: tuple(f"its_{field}" for field in k.decree.__struct_fields__) for k in d.DECREES.values()
}
_LEARNT: Final = (d.LedgerOpened, d.SigningKeyRotated)
LANES: Final = {lane: (f"event_{lane}", f"mark_{lane}") for lane in ("routine", "critical")}
_Row = tuple[str, Mapping[str, Value]]


class Applied(msgspec.Struct, frozen=True):
    """What became of one message: `fault` says why it changed nothing. `body` is what is stored, byte for byte."""

    sequence: int
    subject: str
    where: DecreeSubject | None = None
    envelope: env.Envelope | None = None
    decree: d.Decree | None = None
    fault: str | None = None
    body: bytes = b""


class Projection:
    """The fold of one ledger into one database."""

    def __init__(self, writer: Writer, trust_root: bytes) -> None:
        self._writer = writer
        self._trust = {seal.key_id(trust_root): trust_root}
        self._cursor = 0
        self._epoch = 0
        self._reload()

    @property
    def cursor(self) -> int:
        """The last sequence that is in the database."""
        return self._cursor

    @property
    def epoch(self) -> int:
        """The ledger's epoch, 0 before it was opened."""
        return self._epoch

    @property
    def signing_keys(self) -> Mapping[str, bytes]:
        """Governance's keys in force, by their names."""
        return self._in_force

    def keys_at(self, sequence: int) -> Mapping[str, bytes]:
        """Return governance's keys that could seal what has this sequence: a retired one holds for what came before."""
        return {
            key: public for key, (public, retired_at) in self._history.items()
            if retired_at is None or sequence < retired_at
        }  # fmt: skip

    def apply(self, messages: Sequence[Message], *, checked: Container[int] = ()) -> list[Applied]:
        """Take messages in, in the order of their sequences, in one transaction with the cursor.

        A message at or below the cursor is skipped. A loss of power may take the last ones: the ledger has them.

        Args:
            checked: Sequences whose seal was found good before, over these very bytes and the key they name.

        Raises:
            ProjectorError: SQLite refused; nothing is kept, here or there.
        """
        rows = _Batch(self._writer)
        applied: list[Applied] = []
        try:
            for message in messages:
                if message.sequence <= self._cursor:
                    continue
                outcome = self._judge(message, message.sequence in checked)
                for row in self._trees.add(message):
                    rows.add(*row)
                self._heads.add(message)
                rows.take(outcome)
                applied.append(outcome)
                self._cursor = message.sequence
            if applied:
                cursor: _Row = ("cursor", {"sequence": self._cursor, "epoch": self._epoch})
                for row in (*self._trees.rows(), *self._heads.rows(), cursor):
                    rows.add(*row)
                self._writer.apply_runs(rows.runs(self._marks), synced=False)
        except BaseException:
            self._reload()
            raise
        return applied

    def _reload(self) -> None:
        rows = self._writer.rows
        self._cursor, self._epoch = rows("SELECT sequence, epoch FROM cursor")[0]
        known = "SELECT k.key, k.public_key, r.sequence FROM signing_key k LEFT JOIN signing_key_retired r USING (key)"
        self._history: dict[str, tuple[bytes, int | None]] = {
            key: (_unbase64(public), retired_at) for key, public, retired_at in rows(known)
        }
        self._in_force = self._not_retired()
        self._trees, self._heads = TreeFold(self._writer), HeadFold(self._writer)
        if self._cursor and not self._trees.size:
            raise SchemaError("this read model has no Merkle trees: remove its file, it is made anew from the ledger")
        self._retired: set[str] = {key for (key,) in rows("SELECT key FROM signing_key_retired")}
        self._marks: dict[tuple[str, int], int] = {
            (subject, epoch): counter
            for lane in ("routine", "critical")
            for subject, epoch, counter in rows(f"SELECT subject, epoch, counter FROM mark_{lane}")
        }

    def _judge(self, message: Message, checked: bool) -> Applied:
        try:  # (1)
            where = subjects.parse_decree(message.subject)
            e = env.decode(message.body)
        except ContractError:
            return Applied(message.sequence, message.subject, fault="malformed")
        kind = d.kind_of(e.tag)
        by_root = kind is not None and kind.decree in d.TRUST_ROOT_DECREES
        try:  # (2)
            env.verify(e, message.subject, self._trust if by_root else self._in_force, checked=checked)
        except ContractError:
            return Applied(message.sequence, message.subject, where, fault="bad-seal")
        if kind is None:  # (5)
            return self._marked(message, where, e, fault="unknown-event")
        critical = e.priority == env.PRIORITY_CRITICAL
        if (kind.aggregate, kind.lane) != (where.kind, where.lane) or critical != (where.lane == "critical"):  # (3)
            return Applied(message.sequence, message.subject, where, fault="wrong-lane")
        mark = self._marks.get((message.subject, e.epoch), 0)
        if e.counter <= mark:  # (4)
            return Applied(message.sequence, message.subject, where, fault="duplicate")
        if e.counter != mark + 1 and where.lane == "routine":
            return Applied(message.sequence, message.subject, where, fault="gap")
        try:  # (5)
            decree = d.read(e.tag, e.data)
        except EnvelopeError:
            return self._marked(message, where, e, fault="unreadable")
        if kind.decree in _LEARNT:
            self._learn(decree, message.sequence)
        return self._marked(message, where, e, decree)

    def _marked(
        self,
        message: Message,
        where: DecreeSubject,
        e: env.Envelope,
        decree: d.Decree | None = None,
        fault: str | None = None,
    ) -> Applied:
        mark = self._marks.get((message.subject, e.epoch), 0)
        self._marks[message.subject, e.epoch] = max(mark, e.counter)
        return Applied(message.sequence, message.subject, where, e, decree, fault, message.body)

    def _learn(self, decree: d.Decree, sequence: int) -> None:
        if isinstance(decree, d.LedgerOpened):
            self._epoch = max(self._epoch, decree.epoch)
        elif isinstance(decree, d.SigningKeyRotated):
            self._retired |= set(decree.retires)
            for key in set(decree.retires) & set(self._history):
                public, retired_at = self._history[key]
                self._history[key] = (public, sequence if retired_at is None else retired_at)
            if decree.key not in self._retired:
                self._history.setdefault(decree.key, (decree.public_key, None))
            self._in_force = self._not_retired()

    def _not_retired(self) -> Mapping[str, bytes]:
        return {key: public for key, (public, retired_at) in self._history.items() if retired_at is None}


class _Batch:
    """The rows of one transaction, as many of one statement in a row as the order of those that matter allows.

    Of each mark only the last matters.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._runs: list[tuple[str, list[Mapping[str, Value]]]] = []
        self._open: dict[str, list[Mapping[str, Value]]] = {}  # runs behind which nothing came that minds
        self._marks: dict[tuple[str, int], tuple[str, dict[str, Value]]] = {}

    def add(self, name: str, parameters: Mapping[str, Value]) -> None:
        """Add one row."""
        rows = self._open.get(name)
        if rows is None:
            rows = self._open[name] = []
            self._runs.append((name, rows))
            for other in self._writer.conflicts(name):
                self._open.pop(other, None)
        rows.append(parameters)

    def take(self, outcome: Applied) -> None:
        """Add what one message changes."""
        where, e, decree = outcome.where, outcome.envelope, outcome.decree
        if outcome.fault is not None:
            refused: dict[str, Value] = {
                "sequence": outcome.sequence,
                "subject": outcome.subject,
                "reason": outcome.fault,
            }
            self.add("rejected", refused)
        if where is None or e is None:
            return
        parameters: dict[str, Value] = {
            "sequence": outcome.sequence,
            "id": e.id,
            "subject": outcome.subject,
            "tag": e.tag,
            "region": where.region,
            "tenant": where.tenant,
            "kind": where.kind,
            "aggregate": where.id,
            "counter": e.counter,
            "epoch": e.epoch,
            "issuer": e.actor.issuer,
            "person": e.actor.subject,
            "correlation": e.correlation,
            "at_ms": e.at_ms,
            "body": outcome.body,
        }
        event, mark = LANES[where.lane]
        self.add(event, parameters)
        self._marks[outcome.subject, e.epoch] = mark, parameters
        if decree is not None:  # written anew, so that every field is there and in one form
            name = type(decree).__name__
            parameters.update(zip(_ITS[name], msgspec.structs.astuple(decree), strict=True))
            if "data" in self._writer.parameters(name):
                parameters["data"] = msgspec.json.encode(decree).decode()
            self.add(name, parameters)

    def runs(self, marks: Mapping[tuple[str, int], int]) -> list[tuple[str, list[Mapping[str, Value]]]]:
        """Return all of it. `marks`: how far each lane has come with it."""
        for place, (name, parameters) in self._marks.items():
            self.add(name, {**parameters, "counter": marks[place]})
        return self._runs


def _unbase64(text: str) -> bytes:
    return msgspec.json.decode(msgspec.json.encode(text), type=bytes)
