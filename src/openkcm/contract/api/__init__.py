"""The answers of the API `/cmk/v1`: what governance says and what a client reads. Pure values; no I/O.

Written once: the portal answers by them, OpenAPI is made from them, `openkcm.client` decodes into them. A field may be
added; none changes its meaning. Times are UTC in ms, byte strings base64.
"""

from __future__ import annotations

from openkcm.contract.api.base import Accepted, Health, Page, Problem, Shape, State
from openkcm.contract.api.ledger import FirstBad, Fleet, FleetLedger, FleetRegion, LedgerEvent, Receipt, Verification
from openkcm.contract.api.regions import (
    Approvers,
    Configuration,
    Failure,
    ImportParameters,
    KeyVersion,
    LaneSync,
    NodeSync,
    Region_,
    Revocation,
    RootKey,
    RootState,
    Rotation,
    Sync,
    System,
    Workload,
    WorkloadAuthority,
)
from openkcm.contract.api.switch import (
    Approval,
    BlastRadius,
    HandedOut,
    Pulled,
    Revocations,
    TenantRevocation,
    Termination,
    TerminationRegion,
    Words,
)
from openkcm.contract.api.tenants import KeyOffered, KeyOptions, Me, Tenant, TenantPerson, TenantRegion, TenantSummary

__all__ = [
    "Accepted", "Approval", "Approvers", "BlastRadius", "Configuration", "Failure", "FirstBad", "Fleet",
    "FleetLedger", "FleetRegion", "HandedOut", "Health", "ImportParameters", "KeyOffered", "KeyOptions",
    "KeyVersion", "LaneSync", "LedgerEvent", "Me", "NodeSync", "Page", "Problem", "Pulled", "Receipt", "Region_",
    "Revocation", "Revocations", "RootKey", "RootState", "Rotation", "Shape", "State", "Sync", "System", "Tenant",
    "TenantPerson", "TenantRegion", "TenantRevocation", "TenantSummary", "Termination", "TerminationRegion",
    "Verification", "Words", "Workload", "WorkloadAuthority",
]  # fmt: skip
