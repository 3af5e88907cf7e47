"""What `openkcm` asks of the API: one line a command, with the operation it is. No command reads anything but the API.

`GROUPS` is the table of contents; a test holds it against the API's own surface. `{tenant}` and `{region}` in a path
become options with the profile's defaults, any other name an argument.
"""

# ruff: noqa: E501 -- a table: one line a command
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

__all__ = ["GROUPS", "PAGED", "VERBS", "Field", "Verb"]

Kind = Literal["text", "number", "list", "file", "pairs", "flag"]


class Field(NamedTuple):
    """An option that becomes a member of the body, or a parameter of the query."""

    name: str
    says: str
    kind: Kind = "text"
    required: bool = False
    query: str | None = None

    @property
    def option(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")


class Verb(NamedTuple):
    """A command. `waits`: `--wait` follows the tenant region until every node has it."""

    group: str
    name: str
    operation: str
    method: str
    path: str
    says: str
    fields: tuple[Field, ...] = ()
    columns: tuple[str, ...] = ()
    waits: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """What must be typed behind it."""
        return tuple(n for n in re.findall(r"\{(\w+)\}", self.path) if n not in {"tenant", "region"})

    def body(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body that the options say."""
        return {f.name: given[f.name] for f in self.fields if f.query is None and given.get(f.name) not in (None, ())}


GROUPS: Final[dict[str, str]] = {
    "tenant": "Tenants, their people, and their end.",
    "tenant-region": "Tenant regions: state, lease, suspension, rotation.",
    "root-key": "The customer's root key, as it is linked and as each node sees it.",
    "system": "Systems: each has keys of its own.",
    "workload": "Client certificates that speak for a system.",
    "access": "The kill switch: cut, see, ask for a restore.",
    "approval": "What takes two people.",
    "ledger": "Events, checkpoints, proofs, export.",
    "account": "Oneself.",
    "portal": "The service itself.",
}
_T, _R = "/tenants/{tenant}", "/tenants/{tenant}/regions/{region}"
REASON: Final = Field("reason", "A short code.")
#: Of a list, which is read to its end.
PAGED: Final = (Field("filter", "field eq 'value', joined by and.", query="$filter"),)

# fmt: off
VERBS: Final[tuple[Verb, ...]] = (
    Verb("tenant", "list", "listTenants", "GET", "/tenants", "List tenants.", PAGED, ("id", "regions")),
    Verb("tenant", "show", "showTenant", "GET", _T, "Show a tenant with its people."),
    Verb("tenant", "people", "listPeople", "GET", f"{_T}/people", "List people, roles, keys.", PAGED, ("person", "roles", "signs_with", "offers")),
    Verb("tenant", "terminate", "terminate", "POST", f"{_T}/terminations", "Begin a tenant's end.", (REASON,)),
    Verb("tenant", "termination", "listTerminations", "GET", f"{_T}/terminations", "Show how far the end is.", (), ("status", "reason", "regions")),
    Verb("tenant-region", "list", "listRegions", "GET", f"{_T}/regions", "List a tenant's regions.", PAGED, ("region", "state", "generation", "fence", "lease_s")),
    Verb("tenant-region", "show", "showRegion", "GET", _R, "Show everything about a tenant region."),
    Verb("tenant-region", "sync", "showSync", "GET", f"{_R}/sync", "Show which node has what."),
    Verb("tenant-region", "suspend", "suspend", "PUT", f"{_R}/suspension", "Stop new encryption; reads go on.", (REASON,), waits=True),
    Verb("tenant-region", "resume", "resume", "DELETE", f"{_R}/suspension", "Let encryption go on.", waits=True),
    Verb("tenant-region", "rotate", "rotate", "POST", f"{_R}/rotations", "Order a new key version.", (Field("level", "L2 or L3.", required=True), Field("system", "Whose L3.")), waits=True),
    Verb("tenant-region", "rotate-at-once", "rotateAtOnce", "POST", f"{_R}/emergency-rotations", "Withdraw all versions of a key at once.", (Field("level", "L2 or L3.", required=True), Field("system", "Whose L3.")), waits=True),
    Verb("tenant-region", "rotations", "listRotations", "GET", f"{_R}/rotations", "List rotations.", PAGED, ("rotation", "level", "registration", "at_ms")),
    Verb("root-key", "show", "showRootKey", "GET", f"{_R}/root-key", "Show it as each node sees it."),
    Verb("root-key", "link", "linkRootKey", "PUT", f"{_R}/root-key", "Link a root key where none is linked.", (Field("provider", "aws, azure, gcp, pkcs11, kmip, file.", required=True), Field("ref", "The key's name over there.", required=True), Field("credential", "Name of a credential on the node.")), waits=True),
    Verb("root-key", "import-parameters", "showImportParameters", "GET", f"{_R}/root-key/import", "How to bring your own key material into your KMS."),
    Verb("system", "list", "listSystems", "GET", f"{_R}/systems", "List systems.", PAGED, ("system", "registration", "hand_out", "hand_out_in_force")),
    Verb("system", "register", "registerSystem", "POST", f"{_R}/systems", "Register a system.", (Field("system", "Its name.", required=True), Field("hand_out", "allowed, wrapped-only or never: KMIP Get; not looser than the region's.")), waits=True),
    Verb("system", "hand-out", "setHandOut", "PUT", f"{_R}/systems/{{registration}}/hand-out", "Say whether KMIP Get gives its keys away.", (Field("hand_out", "allowed, wrapped-only or never; none: as the region."),), waits=True),
    Verb("system", "decommission", "decommissionSystem", "DELETE", f"{_R}/systems/{{registration}}", "Cut a system for ever.", waits=True),
    Verb("workload", "list", "listWorkloads", "GET", f"{_R}/workloads", "List workloads.", PAGED, ("workload", "system", "enrolment", "fingerprint", "spiffe", "authority")),
    Verb("workload", "enrol", "enrolWorkload", "POST", f"{_R}/workloads", "Enrol a client certificate.", (Field("workload", "Its name.", required=True), Field("system", "Whose.", required=True), Field("certificate", "PEM file.", "file"), Field("fingerprint", "SHA-256 of the certificate."), Field("spiffe", "SPIFFE id."), Field("authority", "Your own CA that vouches for it.")), waits=True),
    Verb("workload", "remove", "removeWorkload", "DELETE", f"{_R}/workloads/{{enrolment}}", "Cut one enrolment for ever.", waits=True),
    Verb("workload", "authorities", "listWorkloadAuthorities", "GET", f"{_R}/workload-authorities", "List your own CAs that vouch for workloads.", PAGED, ("authority", "subject", "until_ms", "sha256")),
    Verb("workload", "remove-authority", "removeWorkloadAuthority", "DELETE", f"{_R}/workload-authorities/{{authority}}", "Cut one of your own CAs with all it vouches for.", waits=True),
    Verb("access", "revocations", "listRevocations", "GET", f"{_T}/revocations", "List revocations.", PAGED, ("region", "event", "reason", "person", "open", "confirmed")),
    Verb("access", "revocation", "showRevocation", "GET", f"{_T}/revocations/{{event}}", "Show one revocation."),
    Verb("access", "receipt", "showReceipt", "GET", f"{_T}/revocations/{{event}}/receipt", "One revocation to file, sealed."),
    Verb("access", "restore-words", "prepareRestore", "POST", f"{_T}/restores", "The words that lift a region's revocations.", (Field("region", "Which.", required=True),)),
    Verb("approval", "list", "listApprovals", "GET", f"{_T}/approvals", "List approvals.", PAGED, ("approval", "command", "region", "state", "proposer", "granted_by")),
    Verb("approval", "show", "showApproval", "GET", f"{_T}/approvals/{{approval}}", "Show one approval."),
    Verb("approval", "words", "showWords", "GET", f"{_T}/approvals/{{approval}}/words", "The very words of an open approval."),
    Verb("approval", "prepare", "prepareApproval", "POST", f"{_T}/approvals/prepare", "The words of a command; records nothing.", (Field("command", "Which.", required=True), Field("region", "Where."), Field("arguments", "name=value, may be repeated.", "pairs"))),
    Verb("approval", "reject", "rejectApproval", "POST", f"{_T}/approvals/{{approval}}/rejections", "Say no."),
    Verb("approval", "withdraw", "withdrawApproval", "DELETE", f"{_T}/approvals/{{approval}}", "Take it back."),
    Verb("ledger", "read", "readLedger", "GET", "/ledger", "Read events behind a sequence.", (Field("tenant", "Whose.", query="tenant"), Field("after", "Behind this sequence.", "number", query="after"), Field("limit", "At most so many.", "number", query="limit")), ("sequence", "tag", "priority", "at_ms", "id")),
    Verb("ledger", "verify", "verifyLedger", "GET", f"{_T}/verification", "Have the provider check seals and counters."),
    Verb("ledger", "checkpoints", "listCheckpoints", "GET", "/checkpoints", "List trees, checkpoints, witnesses.", (), ("tree", "epoch", "size", "root")),
    Verb("ledger", "trust", "listTrustEvents", "GET", "/trust", "What the trust root said of keys and epochs.", (), ("sequence", "tag", "id")),
    Verb("ledger", "inclusion", "proveInclusion", "GET", "/checkpoints/{tree}/inclusion", "Prove that an event is in a tree.", (Field("sequence", "Where it stands.", "number", required=True, query="sequence"), Field("size", "Of the tree.", "number", query="size"))),
    Verb("ledger", "consistency", "proveConsistency", "GET", "/checkpoints/{tree}/consistency", "Prove that a tree only grew.", tuple(Field(n, "Number.", "number", required=True, query=n) for n in ("epoch", "old", "new"))),
    Verb("ledger", "cosign", "cosign", "POST", "/checkpoints/{tree}/cosignatures", "Hand in a witness's cosignature.", (Field("verifier", "Its key.", required=True), Field("note", "File with the note.", "file", required=True))),
    Verb("account", "show", "showMe", "GET", "/me", "Who am I, and what may I do."),
    Verb("account", "passkey-options", "passkeyOptions", "GET", "/me/approval-key/options", "What a browser needs to make a passkey."),
    Verb("account", "sign-out-everywhere", "signOutEverywhere", "DELETE", "/me/sessions", "End every session of the pages."),
    Verb("portal", "fleet", "showFleet", "GET", "/fleet", "Regions and nodes.", (), ("region", "residency", "nodes")),
    Verb("portal", "openapi", "openapi", "GET", "/openapi.json", "The API's description."),
)
# fmt: on
