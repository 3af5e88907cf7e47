"""The API as methods: one a operation, with the treaty's shapes. Decides nothing; waits where it is told to."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from openkcm.client.transport import SYNC_S, Portal, Problem
from openkcm.contract import api, bodies
from openkcm.contract.seal import Signer

__all__ = ["Client"]

_T = TypeVar("_T")
#: Events in one answer.
LEDGER_PAGE: Final = 1000
ACCEPTED: Final = 202


class Client(Portal):
    """One person, or one service, at the API. Every method may raise `Problem`."""

    # --- reading ----------------------------------------------------------------------------------------------------

    def me(self) -> api.Me:
        """Who the token is of, and what its holder may do."""
        return self._read("/me", api.Me)

    def tenants(self) -> list[api.TenantSummary]:
        """The caller's tenants."""
        return self._all("/tenants", api.TenantSummary)

    def tenant(self, tenant: str) -> api.Tenant:
        """A tenant with its people."""
        return self._read(f"/tenants/{tenant}", api.Tenant)

    def regions(self, tenant: str) -> list[api.TenantRegion]:
        """A tenant's regions."""
        return self._all(f"/tenants/{tenant}/regions", api.TenantRegion)

    def region(self, tenant: str, region: str) -> api.Region_:
        """Everything about one tenant region."""
        return self._read(_region(tenant, region), api.Region_)

    def sync(self, tenant: str, region: str) -> api.Sync:
        """Who has what."""
        return self._read(f"{_region(tenant, region)}/sync", api.Sync)

    def root_key(self, tenant: str, region: str) -> api.RootKey:
        """The root key as each node sees it."""
        return self._read(f"{_region(tenant, region)}/root-key", api.RootKey)

    def workloads(self, tenant: str, region: str) -> list[api.Workload]:
        """Who may encrypt."""
        return self._all(f"{_region(tenant, region)}/workloads", api.Workload)

    def approvals(self, tenant: str) -> list[api.Approval]:
        """What waits for other people's signatures, and did."""
        return self._all(f"/tenants/{tenant}/approvals", api.Approval)

    def revocations(self, tenant: str) -> list[api.TenantRevocation]:
        """Every pull of the kill switch."""
        return self._all(f"/tenants/{tenant}/revocations", api.TenantRevocation)

    def terminations(self, tenant: str) -> list[api.Termination]:
        """How far a tenant's end is."""
        return self._all(f"/tenants/{tenant}/terminations", api.Termination)

    def fleet(self) -> api.Fleet:
        """Regions and nodes."""
        return self._read("/fleet", api.Fleet)

    def ledger(self, tenant: str | None = None, after: int = 0) -> Iterator[api.LedgerEvent]:
        """Every event behind a sequence, in order."""
        whose = {} if tenant is None else {"tenant": tenant}
        while True:
            answer = self.get("/ledger", after=after, limit=LEDGER_PAGE, **whose)
            found = msgspec.convert(answer["value"], list[api.LedgerEvent])
            yield from found
            if len(found) < LEDGER_PAGE:
                return
            after = found[-1].sequence

    def export(self, tenant: str) -> Iterator[bytes]:
        """A tenant's sealed events with the trust events that verify them, a JSON document a line."""
        return self.lines(f"/tenants/{tenant}/export")

    # --- ordering ---------------------------------------------------------------------------------------------------

    def order(self, method: str, path: str, body: object = None) -> api.Accepted:
        """Give any other order of the API."""
        answer = self._ask(method, path, body=body)
        if answer.status != ACCEPTED:
            raise Problem(answer.status, "not-accepted", f"{method} {path}: answered {answer.status}, not {ACCEPTED}")
        return msgspec.convert(dict(answer), api.Accepted)

    def configure(self, tenant: str, region: str, patch: Mapping[str, Any]) -> api.Accepted:
        """Merge a patch into the configuration."""
        return self.order("PATCH", f"{_region(tenant, region)}/configuration", dict(patch))

    def in_sync(self, tenant: str, region: str, generation: int, *, timeout_s: float = SYNC_S) -> api.Sync:
        """Return who has what, once every node has acknowledged a generation.

        Raises:
            SyncTimeout: Not within `timeout_s`.
        """
        answer = self.wait_in_sync(_region(tenant, region), "routine", generation, timeout_s=timeout_s)
        return msgspec.convert(dict(answer), api.Sync)

    def register_tenant(self, body: bodies.TenantBody) -> api.Accepted:
        """Bring a tenant aboard."""
        return self.order("POST", "/tenants", body)

    def link_root_key(self, tenant: str, region: str, provider: str, ref: str) -> api.Accepted:
        """Link a root key where none is linked."""
        return self.order("PUT", f"{_region(tenant, region)}/root-key", {"provider": provider, "ref": ref})

    def register_system(self, tenant: str, region: str, system: str, hand_out: str | None = None) -> api.Accepted:
        """Register a system; `hand_out`: allowed, wrapped-only, never, or None for the tenant region's policy."""
        return self.order("POST", f"{_region(tenant, region)}/systems", {"system": system, "hand_out": hand_out})

    def enrol_workload(self, tenant: str, region: str, body: bodies.WorkloadBody) -> api.Accepted:
        """Enrol a client certificate."""
        return self.order("POST", f"{_region(tenant, region)}/workloads", body)

    def revoke(self, tenant: str, *regions: str, reason: str = "ordered", dry_run: bool = False) -> api.Revocations:
        """Pull the kill switch in these regions, or in all."""
        body = {"reason": reason, **({"regions": list(regions)} if regions else {})}
        query = {"dryRun": "true"} if dry_run else {}
        return msgspec.convert(dict(self.post(f"/tenants/{tenant}/revocations", body, **query)), api.Revocations)

    # --- what takes two people --------------------------------------------------------------------------------------

    def prepare(self, tenant: str, command: str, region: str | None = None, **arguments: str) -> api.Words:
        """Return the words to sign."""
        body = {"command": command, "region": region, "arguments": arguments}
        return msgspec.convert(dict(self.post(f"/tenants/{tenant}/approvals/prepare", body)), api.Words)

    def propose(self, tenant: str, command: str, region: str | None, words: api.Words, signer: Signer) -> api.Accepted:
        """Ask for the other signatures with one's own Ed25519 signature."""
        body = {
            "approval": words.approval, "command": command, "region": region,
            "arguments": words.statement["arguments"], "signature": _signature(words, signer),
        }  # fmt: skip
        return self.order("POST", f"/tenants/{tenant}/approvals", body)

    def grant(self, tenant: str, approval: str, signer: Signer, words: api.Words | None = None) -> api.Accepted:
        """Sign as another person with an Ed25519 key; None: the words as the API says them now."""
        path = f"/tenants/{tenant}/approvals/{approval}"
        said = words if words is not None else self._read(f"{path}/words", api.Words)
        return self.order("POST", f"{path}/grants", {"signature": _signature(said, signer)})

    # --- inside -----------------------------------------------------------------------------------------------------

    def _read(self, path: str, shape: type[_T]) -> _T:
        return msgspec.convert(dict(self.get(path)), shape)

    def _all(self, path: str, shape: type[_T]) -> list[_T]:
        return msgspec.convert(self.listed(path)["value"], list[shape])  # type: ignore[valid-type]


def _region(tenant: str, region: str) -> str:
    return f"/tenants/{tenant}/regions/{region}"


def _signature(words: api.Words, signer: Signer) -> Any:
    return base64.b64encode(signer.sign(words.signed_bytes)).decode()
