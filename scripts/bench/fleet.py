"""A stack's tenants, as a bench brings them aboard through the API. Their admins may pull the kill switch."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx

from openkcm.cli import endpoints, idp
from openkcm.cli.customer import customer_of
from openkcm.cli.layout import Layout
from openkcm.cli.onboarding import portal_of
from openkcm.contract.seal import Signer

__all__ = ["PERSON_RATE", "SETTLE_S", "SIGNED_IN_S", "Fleet", "until"]

PERSON_RATE = 50.0  # revocations a second that one person gets
SETTLE_S = 60.0
SIGNED_IN_S = 200.0  # the kill switch is for people who signed in within the last 300 s


class Fleet:
    """The stack, the tenants that the bench brings aboard, and the people who pull."""

    def __init__(self, layout: Layout, e: endpoints.Endpoints, tenants: int) -> None:
        self.layout, self.nodes, self.url, self.ca = layout, e.nodes, e.cmk.url, e.cmk.ca
        self.regions = sorted({n.region for n in e.nodes})
        self.tenants = [f"bench-{n}" for n in range(tenants)]
        self.admins: dict[str, str] = {}
        self._accounts = self._provider()
        for tenant in self.tenants:
            self._bring_aboard(e, tenant)

    def _provider(self) -> Path:
        """An identity provider's configuration that knows the bench's people: same issuer, same key."""
        known = json.loads(self.layout.configuration("idp").read_text())
        known["accounts"] += [
            {"name": f"{t}/{n}", "subject": f"{t}-person-{n}"} for t in self.tenants for n in range(2)
        ]
        path = self.layout.state / "bench-idp.json"
        path.write_text(json.dumps(known))
        return path

    def _bring_aboard(self, e: endpoints.Endpoints, tenant: str) -> None:
        roles = [["tenant-admin", "key-admin", "kill-switch"], ["approver"]]
        people: list[dict[str, Any]] = [{"person": f"{tenant}-person-{n}", "roles": r} for n, r in enumerate(roles)]
        for person in people[:2]:
            own = Signer(os.urandom(32)).public_key
            person["approval_key"] = base64.b64encode(own).decode()
        token = self.sign_in(tenant)
        with portal_of(e, "provider/operator") as operator:
            operator.post("/tenants", {"id": tenant, "regions": self.regions, "people": people})
        with httpx.Client(**self._http(token)) as admin:
            for region in self.regions:
                path = f"/tenants/{tenant}/regions/{region}"
                root = customer_of(self.layout, tenant, region).make()
                _done(admin, "PUT", f"{path}/root-key", {"provider": root.provider, "ref": root.ref})
                _done(admin, "POST", f"{path}/systems", {"system": "payments"})
                until(lambda at=f"{path}/sync": admin.get(at).json()["routine"]["status"] == "InSync")

    def sign_in(self, tenant: str) -> str:
        """Return a new token of the tenant's admin."""
        self.admins[tenant] = idp.mint(self._accounts, f"{tenant}/0")
        return self.admins[tenant]

    def _http(self, token: str) -> dict[str, Any]:
        return {"base_url": f"{self.url}/cmk/v1", "headers": {"Authorization": f"Bearer {token}"},
                "verify": self.ca or False, "timeout": 60, "trust_env": False}  # fmt: skip

    def wait_until_governance_knows(self, last: dict[tuple[str, str], int]) -> None:
        """Return when governance has read these counters."""
        for (tenant, region), counter in last.items():
            path = f"/tenants/{tenant}/regions/{region}/sync"
            until(lambda of=tenant, at=path, to=counter: self.ask(of, at)["routine"]["counter"] >= to, 900)

    def ask(self, tenant: str, path: str) -> Any:
        """Read as the tenant's admin."""
        with httpx.Client(**self._http(self.admins[tenant])) as admin:
            return admin.get(path).raise_for_status().json()

    def client(self) -> httpx.AsyncClient:
        """Return a client whose requests bring their own token."""
        return httpx.AsyncClient(**self._http(""), limits=httpx.Limits(max_connections=64))


def _done(client: httpx.Client, method: str, path: str, body: Any) -> None:
    """Order, again while the read model has not seen what it needs."""
    until(lambda: client.request(method, path, json=body).status_code == httpx.codes.ACCEPTED)


def until(what: Any, within_s: float = SETTLE_S) -> None:
    """Return once `what()` is true; end the bench when it does not come."""
    deadline = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within_s} s")
        time.sleep(0.05)
