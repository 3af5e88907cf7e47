"""Whether what the ledger orders was also allowed: two people's signatures, nodes' own acks. Pure; opens nothing.

Whoever holds governance's key can append a well-sealed event that the tenant's people never signed. Nodes refuse it;
here it is found and named. `Authority.judge` takes verified events in order and returns a `Finding` for one that

- sets approvers without enough of the set before, or not following it;
- links another root, lengthens a lease, lifts a revocation or destroys a residence without enough approvers in force;
- lifts what was never revoked, or whose approval is not in the ledger under the very words that were signed;
- confirms a revocation without the sealed acks of every node enrolled then;
- ends a tenant whose regions two of its people did not destroy, or without each node's ack or the end of its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from openkcm.audit.verify import Event
from openkcm.contract import decrees as d
from openkcm.contract import envelope, reports, statements, subjects
from openkcm.contract.authority import NotARootCa, check_root_ca
from openkcm.contract.errors import ContractError

__all__ = ["Authority", "Finding", "Obedience", "obedience"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is intact and without authority."""

    epoch: int
    sequence: int
    event: str
    tag: str
    code: str
    why: str


class Obedience(msgspec.Struct, frozen=True, kw_only=True):
    """One node's own sealed word that it obeyed, as RevocationConfirmed embeds it."""

    node: str
    at_ms: int
    closed_boottime_ns: int | None
    state: str


class _Residence:
    """What authority over one residence depends on."""

    def __init__(self) -> None:
        self.approvers: dict[str, bytes] = {}
        self.version = 0
        self.quorum = statements.REQUIRED_SIGNATURES
        self.hash: str | None = None
        self.root: d.RootReference | None = None
        self.lease_s: int | None = None
        self.revocations: dict[str, tuple[int, int]] = {}  # event -> (epoch, fence)
        self.used: set[str] = set()
        self.destroyed: tuple[int, int] | None = None  # (epoch, fence) of the decree that two people signed


class _Tenant:
    """Who can sign for a tenant as a whole."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes | None] = {}
        self.used: set[str] = set()
        self.regions: frozenset[str] = frozenset()
        self.quorum = statements.REQUIRED_SIGNATURES

    @property
    def signers(self) -> dict[str, bytes]:
        return {person: key for person, key in self.keys.items() if key is not None}


class _Approval:
    """One request and who granted it."""

    def __init__(self, requested: d.ApprovalRequested) -> None:
        self.requested = requested
        self.granted: list[statements.Signature] = []


class _Unsupported(Exception):
    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class Authority:
    """What may be done at the point of the ledger that is reached. Feed it every verified event, in order."""

    def __init__(self) -> None:
        self._residences: dict[tuple[str, str], _Residence] = {}
        self._approvals: dict[tuple[str, str], _Approval] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._nodes: dict[str, d.NodeEnrolled] = {}
        self.findings: list[Finding] = []

    def judge(self, event: Event) -> Finding | None:
        """Take the next event; return what is wrong with it, if anything (also kept in `findings`)."""
        rule = RULES.get(type(event.decree))
        if rule is None:
            return None
        try:
            rule(self, event, event.decree)
        except _Unsupported as bad:
            finding = Finding(
                epoch=event.envelope.epoch,
                sequence=event.sequence,
                event=event.envelope.id,
                tag=event.envelope.tag,
                code=bad.code,
                why=str(bad),
            )
            self.findings.append(finding)
            return finding
        return None

    def _residence(self, event: Event) -> _Residence:
        return self._residences.setdefault((event.subject.region, event.subject.tenant), _Residence())

    def _enrolled(self, _event: Event, x: d.NodeEnrolled) -> None:
        self._nodes[x.node] = x

    def _removed(self, _event: Event, x: d.NodeRemoved) -> None:
        self._nodes.pop(x.node, None)

    def _registered(self, event: Event, x: d.TenantRegistered) -> None:
        tenant = self._tenants.setdefault(event.subject.tenant, _Tenant())
        for person in x.people:
            tenant.keys.setdefault(person.person, person.approval_key)

    def _assigned(self, event: Event, x: d.TenantRegionsAssigned) -> None:
        # The first list is free; a later one adds to it, and two people sign for all of it.
        tenant = self._tenants.setdefault(event.subject.tenant, _Tenant())
        if tenant.regions:
            if x.approval is None or x.approval in tenant.used:
                raise _Unsupported("approval", "no approval, or one used before")
            words = statements.regions_statement(event.subject.tenant, x.approval, x.regions)
            if len(statements.signers(words, x.signatures, tenant.signers)) < tenant.quorum:
                raise _Unsupported("signatures", f"not {tenant.quorum} of the tenant's people signed AddRegion")
            if not tenant.regions <= set(x.regions):
                raise _Unsupported("regions", "a region cannot be taken away by a list without it")
            tenant.used.add(x.approval)
        tenant.regions = frozenset(x.regions)

    def _role(self, event: Event, x: d.RoleGranted | d.RoleWithdrawn | d.ApprovalPolicyChanged) -> None:
        # Two people sign; only a person's own first key, while there are not yet two who could, comes without.
        name = event.subject.tenant
        tenant = self._tenants.setdefault(name, _Tenant())
        key = x.approval_key if isinstance(x, d.RoleGranted) else None
        if isinstance(x, d.RoleGranted) and x.approval is None:
            too_late = statements.different_people(tenant.signers.values()) >= statements.REQUIRED_SIGNATURES
            if too_late or x.roles or tenant.keys.get(x.person) is not None or x.person not in tenant.keys:
                raise _Unsupported("role", "no two people agreed to it, and it is nobody's own first key")
        else:
            if x.approval is None or x.approval in tenant.used:
                raise _Unsupported("approval", "no approval, or one used before")
            if isinstance(x, d.ApprovalPolicyChanged):
                words = statements.policy_statement(name, x.approval, x.quorum)
            else:
                command = "GrantRole" if isinstance(x, d.RoleGranted) else "WithdrawRole"
                words = statements.role_statement(name, command, x.approval, x.person, x.roles, key)
            if len(statements.signers(words, x.signatures, tenant.signers)) < tenant.quorum:
                raise _Unsupported("signatures", f"not {tenant.quorum} of the tenant's people signed {words.command}")
            tenant.used.add(x.approval)
            if isinstance(x, d.ApprovalPolicyChanged):
                tenant.quorum = x.quorum
        if key is not None and isinstance(x, d.RoleGranted):
            tenant.keys[x.person] = key

    def _requested(self, event: Event, x: d.ApprovalRequested) -> None:
        self._approvals[event.subject.tenant, event.subject.id] = _Approval(x)

    def _granted(self, event: Event, x: d.ApprovalGranted) -> None:
        approval = self._approvals.get((event.subject.tenant, event.subject.id))
        if approval is None:
            raise _Unsupported("approval", f"approval {event.subject.id} was granted before it was requested")
        if x.approver.person == approval.requested.proposer.person:
            raise _Unsupported("approval", "the proposer granted its own request")
        approval.granted.append(x.approver)

    def _approvers(self, event: Event, x: d.ApproversSet) -> None:
        r = self._residence(event)
        pairs = {a.person: a.public_key for a in x.approvers}
        region, tenant = event.subject.region, event.subject.tenant
        own = statements.approvers_hash(tenant, region, x.version, pairs.items(), x.previous, x.quorum)
        if x.version != r.version + 1 or x.previous != r.hash:
            raise _Unsupported("approvers", f"set {x.version} does not follow set {r.version}")
        if statements.different_people(pairs.values()) < x.quorum:
            raise _Unsupported("approvers", f"fewer than {x.quorum} different keys")
        if r.version:
            _signed(r, statements.approvers_statement(tenant, region, own), x.signatures)
        r.approvers, r.version, r.hash, r.quorum = pairs, x.version, own, x.quorum

    def _linked(self, event: Event, x: d.RootKeyLinked) -> None:
        r = self._residence(event)
        if r.root is not None and x.root != r.root:
            approval = _unused(r, x.approval)
            root = x.root
            words = statements.link_statement(
                event.subject.tenant, event.subject.region, approval, root.provider, root.ref, root.credential
            )
            _signed(r, words, x.signatures)
            r.used.add(approval)
        r.root = x.root

    def _authority(self, event: Event, x: d.WorkloadAuthorityTrusted) -> None:
        r = self._residence(event)
        approval = _unused(r, x.approval)
        words = statements.authority_statement(event.subject.tenant, event.subject.region, approval, x.certificate)
        _signed(r, words, x.signatures)
        try:
            check_root_ca(x.certificate)
        except NotARootCa as bad:
            raise _Unsupported("authority", str(bad)) from bad
        r.used.add(approval)

    def _configured(self, event: Event, x: d.TenantConfigurationUpdated) -> None:
        r = self._residence(event)
        if r.lease_s is not None and x.lease_s > r.lease_s:
            approval = _unused(r, x.approval)
            words = statements.configuration_statement(event.subject.tenant, event.subject.region, approval, x.lease_s)
            _signed(r, words, x.signatures)
            r.used.add(approval)
        r.lease_s = x.lease_s

    def _revoked(self, event: Event, _x: d.AccessRevoked) -> None:
        self._residence(event).revocations[event.envelope.id] = (event.envelope.epoch, event.envelope.counter)

    def _restored(self, event: Event, x: d.AccessRestored) -> None:
        # (1) the very set in force signed; (2) two different people of it, over these very ids; (3) each id named was
        # revoked; (4) the request and the other person's grant are in the ledger under the same words.
        r, region, tenant = self._residence(event), event.subject.region, event.subject.tenant
        if x.approvers_version != r.version:  # (1)
            raise _Unsupported("restore", f"signed under approvers {x.approvers_version}, in force is {r.version}")
        words = statements.restore_statement(tenant, region, x.approval, x.lifts, x.approvers_version)
        _signed(r, words, x.signatures)  # (2)
        for lift in x.lifts:  # (3)
            if r.revocations.get(lift.event) != (lift.epoch, lift.fence):
                raise _Unsupported("restore", f"lifts {lift.event}, no revocation {lift.epoch}:{lift.fence} of here")
        approval = self._approvals.get((tenant, x.approval))  # (4)
        if approval is None or approval.requested.statement != words.sha256():
            raise _Unsupported("approval", f"approval {x.approval} was not requested in these words")
        given = (approval.requested.proposer, *approval.granted)
        if len(statements.signers(words, given, r.approvers)) < r.quorum:
            raise _Unsupported("approval", f"approval {x.approval} was not granted by {r.quorum} people")

    def _destroyed(self, event: Event, x: d.ContextDestroyed) -> None:
        r = self._residence(event)
        words = statements.destroy_statement(
            event.subject.tenant, event.subject.region, x.approval, x.approvers_version
        )
        if x.approvers_version != r.version:
            raise _Unsupported("destroy", f"signed under approvers {x.approvers_version}, in force is {r.version}")
        _signed(r, words, x.signatures)
        r.destroyed = r.destroyed or (event.envelope.epoch, event.envelope.counter)

    def _confirmed(self, event: Event, x: d.RevocationConfirmed) -> None:
        r, region = self._residence(event), event.subject.region
        if r.revocations.get(x.revocation) != (event.envelope.epoch, x.fence):
            raise _Unsupported("confirmation", f"no revocation {x.revocation} with fence {x.fence} here")
        acked = self._check_acks(x.acks, event.subject.tenant, region, event.envelope.epoch, x.fence)
        if x.outcome == "lease":
            return  # the end of a lease leaves no word of a node; the report says so
        missing = {n for n, enrolled in self._nodes.items() if enrolled.region == region} - acked
        if missing or set(x.nodes) - acked:
            raise _Unsupported("confirmation", f"no ack of {', '.join(sorted(missing | set(x.nodes) - acked))}")

    def _terminated(self, event: Event, x: d.TenantTerminated) -> None:
        tenant, acked = event.subject.tenant, set[str]()
        words = [(raw, self._ack(raw)) for raw in x.acks]
        if any(place.region not in x.regions for _, (place, _) in words):
            raise _Unsupported("ack", f"an ack of a region that is not {tenant}'s to end")
        for region in x.regions:
            r = self._residences.get((region, tenant))
            if r is None or r.destroyed is None:
                raise _Unsupported("termination", f"{tenant} in {region} was never destroyed by two of its people")
            acked |= self._check_acks([raw for raw, (place, _) in words if place.region == region], tenant, region,
                                      *r.destroyed)  # fmt: skip
        here = {n for n, enrolled in self._nodes.items() if enrolled.region in x.regions}
        missing = (here | set(x.nodes)) - acked - set(x.by_lease)
        if missing:
            raise _Unsupported("termination", f"neither an ack nor the end of a lease of {', '.join(sorted(missing))}")

    def _ack(self, raw: msgspec.Raw) -> tuple[subjects.ReportSubject, reports.Report]:
        """Return a node's own word and where it said it."""
        try:
            sealed = envelope.decode(bytes(raw))
            place = subjects.parse_report(sealed.subject)
            enrolled = self._nodes.get(place.node)
            known = {enrolled.key: enrolled.public_key} if enrolled is not None else {}
            envelope.verify(sealed, sealed.subject, known)
            return place, reports.read(sealed.tag, sealed.data)
        except ContractError as bad:
            raise _Unsupported("ack", f"an ack that is no node's: {bad}") from bad

    def _check_acks(self, raws: Iterable[msgspec.Raw], tenant: str, region: str, epoch: int, fence: int) -> set[str]:
        """Return the nodes whose own word says that they obeyed this critical decree of a residence."""
        nodes = set()
        for raw in raws:
            place, ack = self._ack(raw)
            if not isinstance(ack, reports.SyncAck) or (place.region, place.tenant, ack.tenant, ack.lane) != (
                region, tenant, tenant, "critical",
            ):  # fmt: skip
                raise _Unsupported("ack", f"{place} is no ack of {tenant} in {region}")
            if ack.ledger_epoch != epoch or (ack.floor < fence and fence not in ack.above):
                raise _Unsupported("ack", f"{place.node} acknowledged up to {ack.floor}, not {fence}")
            nodes.add(place.node)
        return nodes


def obedience(x: d.RevocationConfirmed) -> list[Obedience]:
    """Return what the acks in a confirmation say, once `Authority` found nothing wrong with them."""
    found = []
    for raw in x.acks:
        sealed = envelope.decode(bytes(raw))
        ack = reports.read(sealed.tag, sealed.data)
        assert isinstance(ack, reports.SyncAck)
        node = subjects.parse_report(sealed.subject).node
        found.append(
            Obedience(node=node, at_ms=sealed.at_ms, closed_boottime_ns=ack.closed_boottime_ns, state=ack.state)
        )
    return found


def _unused(r: _Residence, approval: str | None) -> str:
    if approval is None or approval in r.used:
        raise _Unsupported("approval", "no approval, or one used before")
    return approval


def _signed(r: _Residence, words: statements.Statement, given: Iterable[statements.Signature]) -> None:
    good = statements.signers(words, given, r.approvers)
    if len(good) < r.quorum:
        raise _Unsupported("signatures", f"{len(good)} of {r.quorum} approvers signed {words.command}")


RULES: Final[dict[type[d.Decree], Callable[[Authority, Event, d.Decree], None]]] = {
    d.NodeEnrolled: Authority._enrolled,  # type: ignore[dict-item]  # noqa: SLF001 -- each rule takes its own decree
    d.NodeRemoved: Authority._removed,  # type: ignore[dict-item]  # noqa: SLF001
    d.TenantRegistered: Authority._registered,  # type: ignore[dict-item]  # noqa: SLF001
    d.TenantRegionsAssigned: Authority._assigned,  # type: ignore[dict-item]  # noqa: SLF001
    d.RoleGranted: Authority._role,  # type: ignore[dict-item]  # noqa: SLF001
    d.RoleWithdrawn: Authority._role,  # type: ignore[dict-item]  # noqa: SLF001
    d.ApprovalPolicyChanged: Authority._role,  # type: ignore[dict-item]  # noqa: SLF001
    d.ApprovalRequested: Authority._requested,  # type: ignore[dict-item]  # noqa: SLF001
    d.ApprovalGranted: Authority._granted,  # type: ignore[dict-item]  # noqa: SLF001
    d.TenantTerminated: Authority._terminated,  # type: ignore[dict-item]  # noqa: SLF001
    d.ApproversSet: Authority._approvers,  # type: ignore[dict-item]  # noqa: SLF001
    d.RootKeyLinked: Authority._linked,  # type: ignore[dict-item]  # noqa: SLF001
    d.WorkloadAuthorityTrusted: Authority._authority,  # type: ignore[dict-item]  # noqa: SLF001
    d.TenantConfigurationUpdated: Authority._configured,  # type: ignore[dict-item]  # noqa: SLF001
    d.AccessRevoked: Authority._revoked,  # type: ignore[dict-item]  # noqa: SLF001
    d.AccessRestored: Authority._restored,  # type: ignore[dict-item]  # noqa: SLF001
    d.ContextDestroyed: Authority._destroyed,  # type: ignore[dict-item]  # noqa: SLF001
    d.RevocationConfirmed: Authority._confirmed,  # type: ignore[dict-item]  # noqa: SLF001
}
