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

from collections.abc import Callable, Container, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from openkcm.contract.errors import ContractError, EnvelopeError
from openkcm.contract.stored import Message
from openkcm.contract.subjects import DecreeSubject
from openkcm.projector.database import SchemaError, Value, Writer
from openkcm.projector.heads import HeadFold
from openkcm.projector.prepared import Row
from openkcm.projector.trees import TreeFold

__all__ = ["LEDGER_TABLES", "Applied", "Known", "Projection"]

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
#: Each event's row, as its own table takes it. For the statements of its decree its aggregate comes behind it, and what
#: they name: texts and numbers of the decree as `:its_<field>`, and all of it as JSON as `:data`.
COLUMNS: Final = ("sequence", "id", "subject", "tag", "region", "tenant", "kind", "counter", "epoch",
                  "issuer", "person", "correlation", "at_ms", "body")  # fmt: skip
_COUNTER: Final = COLUMNS.index("counter")
_LEARNT: Final = (d.LedgerOpened, d.SigningKeyRotated)
LANES: Final = {lane: (f"event_{lane}", f"mark_{lane}") for lane in ("routine", "critical")}
_Row = tuple[str, Mapping[str, Value]]
Told = tuple[Value, ...]


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What is stored of an event beside its place and its bytes. `told`: what its decree's statements take of it."""

    id: str
    tag: str
    counter: int
    epoch: int
    issuer: str
    person: str
    correlation: str
    at_ms: int
    told: tuple[Any, ...] | None = None


class Applied(msgspec.Struct, frozen=True):
    """What became of one message: `fault` says why it changed nothing. `row` is what is stored of it.

    `told` is what the decree's statements take of it. Envelope and decree are there unless the message was `known`.
    """

    sequence: int
    subject: str
    where: DecreeSubject | None = None
    envelope: env.Envelope | None = None
    decree: d.Decree | None = None
    fault: str | None = None
    epoch: int = 0
    row: tuple[Value, ...] = ()
    file: str | None = None
    told: Told = ()


class Projection:
    """The fold of one ledger into one database."""

    def __init__(self, writer: Writer, trust_root: bytes) -> None:
        self._writer = writer
        self._trust = {seal.key_id(trust_root): trust_root}
        self._tells = {kind.decree: _laid_out(writer, kind.decree) for kind in d.DECREES.values()}
        for name in (name for names in LANES.values() for name in names):
            writer.lay_out(name, COLUMNS)
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

    def known(self, e: env.Envelope, decree: d.Decree) -> Known:
        """Return what is stored of a verified event: of a message as `known`, it spares verifying that again here."""
        return _known(e, self._tells[type(decree)](decree))

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
        known: Known | None = getattr(message, "known", None)  # verified in this very program: (2), (3), (5) hold
        e: env.Envelope | None = None
        try:  # (1)
            where = subjects.parse_decree(message.subject)
            if known is None:
                e = env.decode(message.body)
                known = _known(e)
        except ContractError:
            return Applied(message.sequence, message.subject, fault="malformed")
        kind = d.kind_of(known.tag)
        if e is not None:
            by_root = kind is not None and kind.decree in d.TRUST_ROOT_DECREES
            try:  # (2)
                env.verify(e, message.subject, self._trust if by_root else self._in_force, checked=checked)
            except ContractError:
                return Applied(message.sequence, message.subject, where, fault="bad-seal")
        if kind is None:  # (5)
            return self._marked(message, where, known, e, fault="unknown-event")
        misplaced = e is not None and (e.priority == env.PRIORITY_CRITICAL) != (where.lane == "critical")
        if misplaced or (kind.aggregate, kind.lane) != (where.kind, where.lane):  # (3)
            return Applied(message.sequence, message.subject, where, fault="wrong-lane")
        mark = self._marks.get((message.subject, known.epoch), 0)
        if known.counter <= mark:  # (4)
            return Applied(message.sequence, message.subject, where, fault="duplicate")
        if known.counter != mark + 1 and where.lane == "routine":
            return Applied(message.sequence, message.subject, where, fault="gap")
        told, decree = known.told, None
        if told is None or kind.decree in _LEARNT:
            try:  # (5)
                e = e or env.decode(message.body)
                decree = d.read(e.tag, e.data)
            except EnvelopeError:
                return self._marked(message, where, known, e, fault="unreadable")
            told = self._tells[kind.decree](decree)
            if kind.decree in _LEARNT:
                self._learn(decree, message.sequence)
        return self._marked(message, where, known, e, decree, file=kind.decree.__name__, told=told)

    def _marked(
        self,
        message: Message,
        where: DecreeSubject,
        known: Known,
        e: env.Envelope | None,
        decree: d.Decree | None = None,
        fault: str | None = None,
        file: str | None = None,
        told: Told = (),
    ) -> Applied:
        mark = self._marks.get((message.subject, known.epoch), 0)
        self._marks[message.subject, known.epoch] = max(mark, known.counter)
        row = (
            message.sequence, known.id, message.subject, known.tag, where.region, where.tenant, where.kind,
            known.counter, known.epoch, known.issuer, known.person, known.correlation, known.at_ms, message.body,
        )  # fmt: skip
        return Applied(message.sequence, message.subject, where, e, decree, fault, known.epoch, row, file, told)

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
        self._runs: list[tuple[str, list[Row]]] = []
        self._open: dict[str, list[Row]] = {}  # runs behind which nothing came that minds
        self._marks: dict[tuple[str, int], tuple[str, tuple[Value, ...]]] = {}

    def add(self, name: str, row: Row) -> None:
        """Add one row."""
        rows = self._open.get(name)
        if rows is None:
            rows = self._open[name] = []
            self._runs.append((name, rows))
            for other in self._writer.conflicts(name):
                self._open.pop(other, None)
        rows.append(row)

    def take(self, outcome: Applied) -> None:
        """Add what one message changes."""
        where, row = outcome.where, outcome.row
        if outcome.fault is not None:
            refused: dict[str, Value] = {
                "sequence": outcome.sequence,
                "subject": outcome.subject,
                "reason": outcome.fault,
            }
            self.add("rejected", refused)
        if where is None or not row:
            return
        event, mark = LANES[where.lane]
        self.add(event, row)
        self._marks[outcome.subject, outcome.epoch] = mark, row
        if outcome.file is not None:
            self.add(outcome.file, (*row, where.id, *outcome.told))

    def runs(self, marks: Mapping[tuple[str, int], int]) -> list[tuple[str, list[Row]]]:
        """Return all of it. `marks`: how far each lane has come with it."""
        for place, (name, row) in self._marks.items():
            self.add(name, (*row[:_COUNTER], marks[place], *row[_COUNTER + 1 :]))
        return self._runs


def _known(e: env.Envelope, told: Told | None = None) -> Known:
    return Known(e.id, e.tag, e.counter, e.epoch, e.actor.issuer, e.actor.subject, e.correlation, e.at_ms, told)


def _laid_out(writer: Writer, decree: type[d.Decree]) -> Callable[[Any], Told]:
    """Tell the writer what the rows of a decree's file hold; return what gives the part that is the decree's own."""
    named = writer.parameters(decree.__name__)
    fields = [field for field in decree.__struct_fields__ if f"its_{field}" in named]
    whole = ["data"] if "data" in named else []
    writer.lay_out(decree.__name__, (*COLUMNS, "aggregate", *(f"its_{field}" for field in fields), *whole))
    if whole:  # written anew, so that every field is there and in one form
        return lambda x: (*[getattr(x, field) for field in fields], msgspec.json.encode(x).decode())
    return attrgetter(*fields) if len(fields) > 1 else lambda x: tuple([getattr(x, field) for field in fields])


def _unbase64(text: str) -> bytes:
    return msgspec.json.decode(msgspec.json.encode(text), type=bytes)
