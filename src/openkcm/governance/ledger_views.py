"""The ledger as it was read, out of the read model by plain SQL: history, events, exports. Reads; verifies nothing."""

from __future__ import annotations

from typing import Any

from openkcm.bus.messages import Stored
from openkcm.contract.envelope import PRIORITY_CRITICAL, PRIORITY_ROUTINE
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.news import Item
from openkcm.projector import Reader

__all__ = ["LedgerViews"]


class LedgerViews:
    """The part of the read model that is the ledger itself."""

    reader: Reader

    # --- history ----------------------------------------------------------------------------------------------------

    def history(
        self, tenant: str, *, region: str | None = None, limit: int, search: str = "", priority: bool = False
    ) -> list[dict[str, Any]]:
        """Return a tenant's newest events in few words: who did what, when. `search`: in event, person, region."""
        columns = "sequence, id, tag, region, person, at_ms, counter"
        narrowed = (
            "tenant = :t AND (:r IS NULL OR region = :r) AND (:q = '' OR instr(lower(tag), :q) "
            "OR instr(lower(person), :q) OR instr(lower(region), :q))"
        )
        routine = f"SELECT {columns}, 0 AS priority FROM event_routine WHERE {narrowed} UNION ALL "
        query = (
            f"{'' if priority else routine}SELECT {columns}, 1 AS priority FROM event_critical WHERE {narrowed} "
            "ORDER BY sequence DESC LIMIT :n"
        )
        given = {"t": tenant, "r": region, "n": limit, "q": search.lower().replace(" ", "")}
        return self.reader.records(query, given)

    def receipt(self, tenant: str, event: str) -> dict[str, Any] | None:
        """Return one revocation with its sealed bytes, its confirmation's, and each node's acknowledgement."""
        found = self.reader.records("SELECT * FROM event_critical WHERE id = ? AND tenant = ?", (event, tenant))
        if not found or not found[0]["tag"].startswith("AccessRevoked."):
            return None
        ordered = found[0]
        query = (
            "SELECT sequence, id, subject, at_ms, body FROM event_routine WHERE tenant = ? AND region = ? "
            "AND tag LIKE 'RevocationConfirmed.%' AND json_extract(CAST(body AS TEXT), '$.data.revocation') = ?"
        )
        confirmed = next(iter(self.reader.records(query, (tenant, ordered["region"], event))), None)
        return {**ordered, "confirmed": confirmed}

    # --- the ledger as read -----------------------------------------------------------------------------------------

    def verified(self, where: DecreeSubject, after: int, limit: int) -> list[Stored]:
        """Return what one aggregate's lane had behind a cursor and the read model took in, seal and counter checked."""
        query = (
            f"SELECT sequence, subject, body, id FROM event_{where.lane} "
            "WHERE tenant = ? AND sequence > ? AND subject = ? ORDER BY sequence LIMIT ?"
        )
        return [Stored(*row) for row in self.reader.rows(query, (where.tenant, after, str(where), limit))]

    def events(self, tenant: str | None, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """Return (sequence, subject, bytes) behind a cursor: of all, or of one tenant with the denials at its door."""
        columns = "SELECT e.sequence, e.subject, e.body FROM"
        if tenant is None:
            query = f"{columns} event AS e WHERE e.sequence > :a ORDER BY e.sequence LIMIT :n"
        else:
            query = (
                f"{columns} event_routine AS e WHERE e.tenant = :t AND e.sequence > :a UNION ALL "
                f"{columns} event_critical AS e WHERE e.tenant = :t AND e.sequence > :a UNION ALL "
                f"{columns} event_routine AS e JOIN access_denied AS x USING (sequence) "
                "WHERE x.tenant = :t AND e.sequence > :a ORDER BY 1 LIMIT :n"
            )
        return [(n, s, b) for n, s, b in self.reader.rows(query, {"t": tenant, "a": after, "n": limit})]

    def happened(self, after: int, limit: int) -> list[Item]:
        """Return the news of the events behind a sequence, as they were told when they happened."""
        columns = "sequence, tenant, region, tag, at_ms"
        query = (
            f"SELECT {columns}, 0 FROM event_routine WHERE sequence > :a UNION ALL "
            f"SELECT {columns}, 1 FROM event_critical WHERE sequence > :a ORDER BY sequence LIMIT :n"
        )
        return [
            Item(
                kind="event", tenant=tenant, region=region, event=tag.partition(".")[0], sequence=sequence, at_ms=at_ms,
                priority=PRIORITY_CRITICAL if critical else PRIORITY_ROUTINE,
            )
            for sequence, tenant, region, tag, at_ms, critical in self.reader.rows(query, {"a": after, "n": limit})
        ]  # fmt: skip

    def exported(self, tenant: str, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """Return (sequence, subject, bytes) of a tenant's events and of the trust events that verify them."""
        query = " UNION ALL ".join(
            f"SELECT sequence, subject, body FROM event_{lane} WHERE sequence > :a AND {whose}"
            for lane in ("routine", "critical")
            for whose in ("tenant = :t", "tenant = '_' AND kind = 'ledger' AND tag NOT LIKE 'AccessDenied.%'")
        )
        query += " ORDER BY 1 LIMIT :n"
        return [(n, s, b) for n, s, b in self.reader.rows(query, {"t": tenant, "a": after, "n": limit})]

    def event_count(self, tenant: str | None) -> int:
        """Return how many events there are, of one tenant (and who was denied at its door) or of all."""
        of = "" if tenant is None else "WHERE tenant = :t"
        query = (
            f"SELECT (SELECT count(*) FROM event_routine {of}) + (SELECT count(*) FROM event_critical {of}) + "
            "(SELECT count(*) FROM access_denied WHERE tenant = :t)"
        )
        return int(self.reader.rows(query, {"t": tenant})[0][0])

    def report_cursor(self) -> int:
        """Return how far the nodes' reports are read."""
        return int(self.reader.rows("SELECT sequence FROM report_cursor")[0][0])
