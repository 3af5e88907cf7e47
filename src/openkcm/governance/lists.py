"""The lists of the API as SQL: what each selects, what it can be filtered by, its order. Reads pages, changes nothing.

A page begins behind the key of the row before it, which an index finds: what comes or goes meanwhile moves no row from
one page to another, and the last page costs what the first does.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from openkcm.contract import passkey
from openkcm.contract.decrees import stricter
from openkcm.contract.errors import SealError
from openkcm.governance.errors import Invalid
from openkcm.projector import Reader

__all__ = [
    "ALL_REGIONS", "ALL_TENANTS", "APPROVALS", "AUTHORITIES", "PEOPLE", "REGIONS", "REGIONS_OF", "REVOCATIONS",
    "ROTATIONS", "SYSTEMS", "TENANTS_OF", "TERMINATIONS", "TREES", "TRUST", "WORKLOADS", "Listing", "Lists",
    "Page", "Rows",
]  # fmt: skip

Row = dict[str, Any]
Rows = list[Row]
MOST: Final = 1_000_000_000
_KEYS: Final = msgspec.json.Decoder(list[str | Annotated[int, msgspec.Meta(ge=0, le=2**62)]])


class Listing(NamedTuple):
    """One list.

    Attributes:
        select: Its rows. May name `:t`, the tenant; `:r`, the region; `:many`, tenants as JSON; `:q`, part of a name.
        fields: The columns that `$filter` can name.
        key: Its order: columns that together are unique, and that an index has in this order.
        shown: A row as people are shown it.
    """

    select: str
    fields: tuple[str, ...]
    key: tuple[str, ...]
    newest_first: bool = False
    shown: Callable[[Row], Row] = dict


class Page(msgspec.Struct, frozen=True):
    """A part of a list. `count`: how many the filter leaves; `after`: where the next one begins, None at the end."""

    rows: Rows
    count: int
    after: str | None


_WORKLOAD: Final = ("workload", "system", "enrolment", "fingerprint", "spiffe", "authority")


def _person(row: Row) -> Row:
    key, offered, how = row["approval_key"], row["offered"], None
    if key is not None:
        try:
            how = "ed25519" if passkey.read_key(base64.b64decode(key)) is None else "passkey"
        except SealError:  # governance checks keys before it appends; an older ledger may hold one that is none
            how = None
    digest = hashlib.sha256(base64.b64decode(offered)).hexdigest() if offered is not None and offered != key else None
    roles = msgspec.json.decode(row["roles"])
    return {"person": row["person"], "roles": roles, "approval_key": key, "signs_with": how, "offers": digest}


def _system(row: Row) -> Row:
    shown = {name: row[name] for name in ("system", "registration", "hand_out")}
    return {**shown, "hand_out_in_force": stricter(row["ceiling"] or "allowed", row["hand_out"])}


def _workload(row: Row) -> Row:
    return {name: row[name] for name in _WORKLOAD}


def _revocation(row: Row) -> Row:
    return {**row, "open": row["open"] == "true"}


def _agreement(row: Row) -> Row:
    return {**row, **{name: msgspec.json.decode(row[name]) for name in ("arguments", "granted_by")}}


def _sealed(row: Row) -> Row:
    return {**row, "body": base64.b64encode(row["body"]).decode()}


_HERE: Final = "tenant = :t AND region = :r"
_OF: Final = "tenant IN (SELECT value FROM json_each(:many))"
_REGION: Final = ("tenant", "region", "state", "generation", "fence", "lease_s")
_SUMMARY: Final = f"SELECT {', '.join(_REGION)} FROM residence WHERE"

ALL_TENANTS: Final = Listing("SELECT tenant AS id FROM tenant", ("id",), ("id",))
TENANTS_OF: Final = Listing(f"SELECT tenant AS id FROM tenant WHERE {_OF}", ("id",), ("id",))
REGIONS: Final = Listing(f"{_SUMMARY} tenant = :t", _REGION, ("tenant", "region"))
REGIONS_OF: Final = Listing(f"{_SUMMARY} {_OF} AND instr(tenant, :q)", _REGION, ("tenant", "region"))
ALL_REGIONS: Final = Listing(f"{_SUMMARY} instr(tenant, :q)", _REGION, ("tenant", "region"))
PEOPLE: Final = Listing(
    "SELECT p.person, p.approval_key, (SELECT json_group_array(role) FROM (SELECT r.role FROM person_role AS r "
    "WHERE r.tenant = p.tenant AND r.person = p.person ORDER BY r.role)) AS roles, (SELECT o.approval_key "
    "FROM offered_key AS o WHERE o.person = p.person ORDER BY o.at_ms DESC LIMIT 1) AS offered "
    "FROM person AS p WHERE p.tenant = :t",
    ("person",), ("person",), shown=_person,
)  # fmt: skip
SYSTEMS: Final = Listing(
    "SELECT s.system, s.registration, s.hand_out, s.generation, (SELECT c.hand_out FROM configuration AS c "
    "WHERE c.tenant = s.tenant AND c.region = s.region) AS ceiling FROM system AS s "
    "WHERE s.tenant = :t AND s.region = :r",
    ("system", "registration", "hand_out"), ("generation", "registration"), shown=_system,
)  # fmt: skip
WORKLOADS: Final = Listing(
    f"SELECT {', '.join(_WORKLOAD)}, generation FROM workload WHERE {_HERE} AND instr(workload, :q)",
    _WORKLOAD, ("generation", "enrolment"), shown=_workload,
)  # fmt: skip
AUTHORITIES: Final = Listing(
    f"SELECT authority, certificate, generation FROM trusted_authority WHERE {_HERE}",
    ("authority",), ("generation", "authority"),
)  # fmt: skip
ROTATIONS: Final = Listing(
    f"SELECT rotation, level, registration, at_ms FROM rotation WHERE {_HERE}",
    ("rotation", "level", "registration", "at_ms"), ("at_ms", "rotation"),
)  # fmt: skip
REVOCATIONS: Final = Listing(
    "SELECT r.region, r.event, r.epoch, r.fence, r.reason, r.person, r.at_ms, iif(EXISTS (SELECT 1 FROM "
    "open_revocation AS o WHERE o.tenant = r.tenant AND o.region = r.region AND o.event = r.event), 'true', 'false') "
    "AS open, c.outcome AS confirmed, c.at_ms AS confirmed_ms FROM revocation AS r LEFT JOIN revocation_confirmed AS c "
    "ON c.tenant = r.tenant AND c.region = r.region AND c.event = r.event WHERE r.tenant = :t",
    ("region", "event", "epoch", "fence", "reason", "person", "at_ms", "open", "confirmed", "confirmed_ms"),
    ("at_ms", "event"), newest_first=True, shown=_revocation,
)  # fmt: skip
APPROVALS: Final = Listing(
    "SELECT a.*, (SELECT json_group_array(g.person) FROM approval_grant AS g WHERE g.tenant = a.tenant "
    "AND g.approval = a.approval) AS granted_by FROM approval AS a WHERE a.tenant = :t",
    ("approval", "command", "region", "proposer", "fence_seen", "expires_at_ms", "state", "reason", "event", "at_ms"),
    ("at_ms", "approval"), newest_first=True, shown=_agreement,
)  # fmt: skip
TERMINATIONS: Final = Listing(
    "SELECT tenant, reason, requested_ms, terminated_ms FROM termination WHERE tenant = :t",
    ("tenant", "reason", "requested_ms", "terminated_ms"), ("tenant",),
)  # fmt: skip
#: What the trust root said of keys and epochs, sealed: whom a witness believes about a checkpoint.
TRUST: Final = Listing(
    " UNION ALL ".join(
        f"SELECT sequence, body FROM {table} WHERE tenant = '_' AND tag LIKE '{tag}.%'"
        for table, tag in (("event_critical", "SigningKeyRotated"), ("event_routine", "LedgerOpened"))
    ),
    ("sequence",), ("sequence",), shown=_sealed,
)  # fmt: skip
TREES: Final = Listing(
    "SELECT tree, max(epoch) AS epoch, size, sequence FROM tree GROUP BY tree",
    ("tree", "epoch", "size", "sequence"), ("tree",),
)  # fmt: skip


class Lists:
    """The part of the read model that is lists."""

    reader: Reader

    def rows(self, listing: Listing, tenant: str = "", region: str = "", **asked: Any) -> Rows:
        """Return a list, or the part of it that `page` would: `asked` is what that takes.

        Raises:
            Invalid: As `page`.
        """
        return [*map(listing.shown, self._read(listing, tenant, region, **asked))]

    def page(
        self, listing: Listing, tenant: str = "", region: str = "", *, top: int, skip: int = 0,
        after: str | None = None, **narrowed: Any,
    ) -> Page:  # fmt: skip
        """Return a part of a list, how long the list is, and where the next part begins.

        Args:
            after: Where the page before said that this one begins.
            narrowed: `wanted`, (field, value) of what rows must have; `many`, tenants; `q`, a part of a name.

        Raises:
            Invalid: A field that the list cannot be filtered by, or `after` is none of ours.
        """
        rows = self._read(listing, tenant, region, top=top + 1, skip=skip, after=after, **narrowed)
        following = None
        if len(rows) > top:
            del rows[top:]
            last = msgspec.json.encode([rows[-1][column] for column in listing.key])
            following = base64.urlsafe_b64encode(last).decode().rstrip("=")
        held, given = _narrowed(listing, tenant, region, **narrowed)
        count = self.reader.rows(f"SELECT count(*) FROM ({listing.select}) WHERE {' AND '.join(held)}", given)[0][0]
        return Page(rows=[*map(listing.shown, rows)], count=count, after=following)

    def _read(
        self, listing: Listing, tenant: str, region: str, *, top: int = MOST, skip: int = 0,
        after: str | None = None, **narrowed: Any,
    ) -> Rows:  # fmt: skip
        held, given = _narrowed(listing, tenant, region, **narrowed)
        if after is not None:
            marks = {f"k{n}": value for n, value in enumerate(_key(after, len(listing.key)))}
            below = "<" if listing.newest_first else ">"
            held.append(f"({', '.join(listing.key)}) {below} (:{', :'.join(marks)})")
            given |= marks
        order = ", ".join(f"{column}{' DESC' if listing.newest_first else ''}" for column in listing.key)
        query = f"SELECT * FROM ({listing.select}) WHERE {' AND '.join(held)} ORDER BY {order} LIMIT :top OFFSET :skip"
        return self.reader.records(query, {**given, "top": top, "skip": skip})


def _narrowed(
    listing: Listing, tenant: str, region: str, *, wanted: Iterable[tuple[str, str]] = (), many: Iterable[str] = (),
    q: str = "",
) -> tuple[list[str], dict[str, str | int]]:  # fmt: skip
    held = ["true"]
    given: dict[str, str | int] = {"t": tenant, "r": region, "many": msgspec.json.encode([*many]).decode(), "q": q}
    for n, (field, value) in enumerate(wanted):
        if field not in listing.fields:
            raise Invalid(f"$filter: this list has no {field[:40]} to filter by, but {', '.join(listing.fields)}")
        # a key's column is the table's own, and an index finds it; another may be a number that was counted
        held.append(f"{field} = :w{n}" if field in listing.key else f"CAST({field} AS TEXT) = :w{n}")
        given[f"w{n}"] = value
    return held, given


def _key(text: str, columns: int) -> list[Any]:
    try:
        found = _KEYS.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError) as bad:
        raise Invalid("$after takes what the Link of the page before it says") from bad
    if len(found) != columns:
        raise Invalid("$after takes what the Link of a page of this very list says")
    return found
