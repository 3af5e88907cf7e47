"""The SQL function `signed`: whether enough of the residence's approvers signed what a decree orders. Opens nothing.

Whoever holds governance's key can append a decree that lifts a revocation; the nodes refuse it without two people's
signatures, and so must the read model and an auditor's replay: the check is part of the SQL, so all three agree.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import msgspec

from openkcm.contract import authority
from openkcm.contract import decrees as d
from openkcm.contract import statements as s
from openkcm.contract.authority import NotARootCa
from openkcm.contract.errors import ContractError

__all__ = ["register", "signed"]


def _restored(tenant: str, region: str, x: d.AccessRestored) -> s.Statement:
    return s.restore_statement(tenant, region, x.approval, x.lifts, x.approvers_version)


def _configured(tenant: str, region: str, x: d.TenantConfigurationUpdated) -> s.Statement:
    return s.configuration_statement(tenant, region, x.approval or "", x.lease_s)


def _linked(tenant: str, region: str, x: d.RootKeyLinked) -> s.Statement:
    return s.link_statement(tenant, region, x.approval or "", x.root.provider, x.root.ref, x.root.credential)


def _authority(tenant: str, region: str, x: d.WorkloadAuthorityTrusted) -> s.Statement:
    return s.authority_statement(tenant, region, x.approval, x.certificate)


def _destroyed(tenant: str, region: str, x: d.ContextDestroyed) -> s.Statement:
    return s.destroy_statement(tenant, region, x.approval, x.approvers_version)


def _approvers(tenant: str, region: str, x: d.ApproversSet) -> s.Statement:
    return s.approvers_statement(tenant, region, _hash_of_set(tenant, region, x))


def _hash_of_set(tenant: str, region: str, x: d.ApproversSet) -> str:
    pairs = ((a.person, a.public_key) for a in x.approvers)
    return s.approvers_hash(tenant, region, x.version, pairs, x.previous, x.quorum)


def _granted(tenant: str, _region: str, x: d.RoleGranted) -> s.Statement:
    return s.role_statement(tenant, "GrantRole", x.approval or "", x.person, x.roles, x.approval_key)


def _withdrawn(tenant: str, _region: str, x: d.RoleWithdrawn) -> s.Statement:
    return s.role_statement(tenant, "WithdrawRole", x.approval or "", x.person, x.roles)


def _policy(tenant: str, _region: str, x: d.ApprovalPolicyChanged) -> s.Statement:
    return s.policy_statement(tenant, x.approval, x.quorum)


def _regions(tenant: str, _region: str, x: d.TenantRegionsAssigned) -> s.Statement:
    return s.regions_statement(tenant, x.approval or "", x.regions)


STATEMENTS: Final[dict[str, Callable[[str, str, Any], s.Statement]]] = {
    "AccessRestored.1": _restored,
    "TenantConfigurationUpdated.1": _configured,
    "RootKeyLinked.1": _linked,
    "WorkloadAuthorityTrusted.1": _authority,
    "ContextDestroyed.1": _destroyed,
    "ApproversSet.2": _approvers,
    "TenantRegionsAssigned.2": _regions,
    "RoleGranted.1": _granted,
    "RoleWithdrawn.1": _withdrawn,
    "ApprovalPolicyChanged.1": _policy,
}


class _Signers(msgspec.Struct, frozen=True):
    """Who can sign, and how many do."""

    quorum: int
    approvers: tuple[d.Approver, ...]


_SIGNERS: Final = msgspec.json.Decoder(_Signers)


def signed(tag: str, tenant: str, region: str, data: str, approvers: str | None) -> int:
    """Return 1 when as many of `approvers` as its `quorum` says (JSON) signed the decree in `data`, else 0."""
    if approvers is None:
        return 0
    try:
        decree = d.read(tag, data.encode())
        signers = _SIGNERS.decode(approvers)
    except (ContractError, msgspec.MsgspecError):
        return 0
    known = {a.person: a.public_key for a in signers.approvers}
    good = s.signers(STATEMENTS[tag](tenant, region, decree), getattr(decree, "signatures", ()), known)
    return int(len(good) >= signers.quorum)


def people(approvers: str) -> int:
    """Return how many different people `approvers` (JSON) are."""
    try:
        return s.different_people(a.public_key for a in _SIGNERS.decode(approvers).approvers)
    except msgspec.MsgspecError:
        return 0


def set_hash(tenant: str, region: str, data: str) -> str | None:
    """Return the hash (hex) of an ApproversSet's data, None when it is none."""
    try:
        decree = d.read("ApproversSet.2", data.encode())
    except ContractError:
        return None
    assert isinstance(decree, d.ApproversSet)
    return _hash_of_set(tenant, region, decree)


def root_ca(certificate: str) -> str | None:
    """Return the name of a root CA whose certificate (base64 of its DER) this is, None when it is none."""
    try:
        der = base64.b64decode(certificate, validate=True)
        authority.check_root_ca(der)
        return authority.name_of(der)
    except (NotARootCa, ValueError):
        return None


def register(connection: sqlite3.Connection) -> None:
    """Make `signed`, `different_people`, `approvers_hash` and `root_ca` known to a connection."""
    connection.create_function("signed", 5, signed, deterministic=True)
    connection.create_function("different_people", 1, people, deterministic=True)
    connection.create_function("approvers_hash", 3, set_hash, deterministic=True)
    connection.create_function("root_ca", 1, root_ca, deterministic=True)
