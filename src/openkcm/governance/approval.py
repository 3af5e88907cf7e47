"""An approval: a command that waits for a second person's own signature. Pure: signatures are checked, never made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.aggregate import Decreed, LedgerAggregate, Rule
from openkcm.governance.errors import BadSignature, Forbidden, IllegalNow

__all__ = ["Approval", "ApprovalFacts", "Approved"]

State = Literal["Unknown", "Requested", "Granted", "Rejected", "Withdrawn", "Expired", "Executed"]
OPEN: Final = frozenset({"Requested", "Granted"})


class Approved(msgspec.Struct, frozen=True):
    """Two people's consent to a command, by the approval they gave it under."""

    approval: str
    signatures: tuple[statements.Signature, ...]


class ApprovalFacts(msgspec.Struct, frozen=True):
    """What the decrees say."""

    tenant: str
    approval: str
    state: State = "Unknown"
    request: d.ApprovalRequested | None = None
    grants: dict[str, statements.Signature] = {}
    event: str | None = None

    @property
    def statement(self) -> statements.Statement:
        """The words that are signed."""
        assert self.request is not None
        if self.request.command == "SetApprovers":  # its words are the set's own, whatever the approval is called
            set_hash = dict(self.request.arguments).get("set", "")
            return statements.approvers_statement(self.tenant, self.request.region or "", set_hash)
        return statements.Statement(
            tenant=self.tenant, region=self.request.region or "global", command=self.request.command,
            approval=self.approval, arguments=self.request.arguments,
        )  # fmt: skip

    @property
    def signatures(self) -> tuple[statements.Signature, ...]:
        """The proposer's and the approvers' signatures."""
        assert self.request is not None
        return (self.request.proposer, *(self.grants[person] for person in sorted(self.grants)))


def _requested(a: ApprovalFacts, x: d.ApprovalRequested, _: Decreed) -> ApprovalFacts:
    return replace(a, state="Requested", request=x) if a.state == "Unknown" else a


def _granted(a: ApprovalFacts, x: d.ApprovalGranted, _: Decreed) -> ApprovalFacts:
    return replace(a, state="Granted", grants={**a.grants, x.approver.person: x.approver}) if a.state in OPEN else a


def _closed(state: State) -> Rule:
    def close(a: ApprovalFacts, _x: d.Decree, _: Decreed) -> ApprovalFacts:
        return replace(a, state=state) if a.state in OPEN else a

    return close


def _executed(a: ApprovalFacts, x: d.ApprovalExecuted, _: Decreed) -> ApprovalFacts:
    return replace(a, state="Executed", event=x.event) if a.state in OPEN else a


class Approval(LedgerAggregate):
    """One request for a second person's consent."""

    if TYPE_CHECKING:  # at run time `eventsourcing` would make a field of it, and an __init__
        facts: ApprovalFacts
    RULES = {
        d.ApprovalRequested: _requested,
        d.ApprovalGranted: _granted,
        d.ApprovalRejected: _closed("Rejected"),
        d.ApprovalWithdrawn: _closed("Withdrawn"),
        d.ApprovalExpired: _closed("Expired"),
        d.ApprovalExecuted: _executed,
    }

    @staticmethod
    def nothing(where: DecreeSubject) -> ApprovalFacts:
        """Return an approval nobody asked for."""
        return ApprovalFacts(where.tenant, where.id)

    def request(
        self, statement: statements.Statement, proposer: statements.Signature, known: dict[str, bytes], *,
        fence_seen: int, expires_at_ms: int,
    ) -> None:  # fmt: skip
        """Ask for the second signature.

        Raises:
            IllegalNow: The id was used before.
            BadSignature: Not the proposer's signature over these words, or the proposer is no approver here.
        """
        if self.facts.state != "Unknown":
            raise IllegalNow(f"approval {self.facts.approval} was asked for already")
        _check(statement, proposer, known)
        self.decree(
            d.ApprovalRequested(
                command=statement.command, region=None if statement.region == "global" else statement.region,
                arguments=statement.arguments, statement=statement.sha256(), proposer=proposer,
                fence_seen=fence_seen, expires_at_ms=expires_at_ms,
            )
        )  # fmt: skip

    def grant(self, approver: statements.Signature, known: dict[str, bytes], *, now_ms: int) -> None:
        """Add the second person's signature. The same person's once more changes nothing.

        Raises:
            IllegalNow: Not open any more.
            Forbidden: The proposer never votes.
            BadSignature: Not an approver's signature over these words.
        """
        request = self._open(now_ms)
        if approver.person == request.proposer.person or known.get(approver.person) == known.get(
            request.proposer.person
        ):
            raise Forbidden("whoever asks does not vote: another person signs")
        _check(self.facts.statement, approver, known)
        if approver.person not in self.facts.grants:
            self.decree(d.ApprovalGranted(approver=approver))

    def reject(self, person: str, *, now_ms: int) -> None:
        """Say no; the proposer withdraws instead.

        Raises:
            IllegalNow: Not open any more.
            Forbidden: The proposer never votes.
        """
        if person == self._open(now_ms).proposer.person:
            raise Forbidden("whoever asks does not vote: withdraw it instead")
        self.decree(d.ApprovalRejected(person=person))

    def withdraw(self, person: str, *, now_ms: int) -> None:
        """Take it back.

        Raises:
            IllegalNow: Not open any more.
            Forbidden: Somebody else's.
        """
        if person != self._open(now_ms).proposer.person:
            raise Forbidden("only whoever asked takes it back")
        self.decree(d.ApprovalWithdrawn(reason="withdrawn"))

    def void(self, reason: str) -> None:
        """Close it because of what happened meanwhile. A closed one stays as it is."""
        if self.facts.state in OPEN:
            self.decree(d.ApprovalWithdrawn(reason=reason))

    def expire(self) -> None:
        """Close it because nobody answered in time. A closed one stays as it is."""
        if self.facts.state in OPEN:
            self.decree(d.ApprovalExpired())

    def executed(self, event: str) -> None:
        """Note that the command is in the ledger. A closed one stays as it is."""
        if self.facts.state in OPEN:
            self.decree(d.ApprovalExecuted(event=event))

    def _open(self, now_ms: int) -> d.ApprovalRequested:
        request = self.facts.request
        if self.facts.state not in OPEN or request is None:
            raise IllegalNow(f"approval {self.facts.approval} is {self.facts.state}")
        if now_ms >= request.expires_at_ms:
            raise IllegalNow(f"approval {self.facts.approval} has expired: prepare another one")
        return request


def _check(statement: statements.Statement, signature: statements.Signature, known: dict[str, bytes]) -> None:
    if not statements.signers(statement, [signature], known):
        raise BadSignature(f"not a signature of an approver of this residence over the words of {statement.command}")
