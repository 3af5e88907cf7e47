"""Two of a tenant's people lift a revocation, as they would."""

from __future__ import annotations

import base64
from pathlib import Path

from openkcm.contract.seal import Signer
from running_stack import Stack


def lift(stack: Stack, tenant: str, region: str) -> None:
    """Ask for a restore and sign it, as the tenant's administrator and its approver."""
    people = stack.endpoints.people

    def signature(person: str, message: bytes) -> str:
        seed = Path(people[person].approval_key or "").read_bytes()
        return base64.b64encode(Signer(seed).sign(message)).decode()

    one, two = f"{tenant}/admin", f"{tenant}/approver"
    with stack.portal(one) as asks, stack.portal(two) as signs:
        words = asks.post(f"/tenants/{tenant}/approvals/prepare", {"command": "RestoreAccess", "region": region})
        message, approval = base64.b64decode(words["signed_bytes"]), words["approval"]
        asks.post(f"/tenants/{tenant}/approvals", {
            "approval": approval, "command": "RestoreAccess", "region": region,
            "arguments": words["statement"]["arguments"], "signature": signature(one, message),
        })  # fmt: skip
        signs.post(f"/tenants/{tenant}/approvals/{approval}/grants", {"signature": signature(two, message)})
