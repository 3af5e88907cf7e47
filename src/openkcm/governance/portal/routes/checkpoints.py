"""Checkpoints of the ledger's trees, proofs, and the witnesses' cosignatures."""

from __future__ import annotations

from typing import Annotated, Any, Final

from litestar import Response
from msgspec import Meta

from openkcm.contract import api, bodies
from openkcm.contract.errors import ContractError
from openkcm.contract.ids import check_token
from openkcm.governance import lists
from openkcm.governance.errors import Invalid, NotFound
from openkcm.governance.portal.requests import answered
from openkcm.governance.portal.surface import Call, Param, operation

__all__: list[str] = []

INCLUSION: Final = (
    Param("sequence", "integer", "Where the event stands in the ledger.", 0),
    Param("size", "integer", "Of the tree; now, when it is left out."),
)
CONSISTENCY: Final = tuple(Param(name, "integer", says) for name, says in (
    ("epoch", "The ledger's epoch."), ("old", "The older size."), ("new", "The newer size.")
))  # fmt: skip


class CosignatureBody(bodies.Body, frozen=True, kw_only=True):
    """POST cosignatures. `verifier`: the witness's key as signed-note spells it; `note`: checkpoint with its line."""

    verifier: Annotated[str, Meta(max_length=512)]
    note: Annotated[str, Meta(max_length=8192)]


def _tree(call: Call) -> str:
    try:
        return check_token(call.part("tree"), "tree")
    except ContractError as bad:
        raise NotFound(str(bad)) from bad


@operation(
    "GET", "/checkpoints", "ReadCheckpoints", name="listCheckpoints", answer=api.Page[dict[str, Any]], paged=True
)
async def checkpoints(call: Call) -> Response[bytes]:
    """List each tree: its size and root, its newest signed checkpoint, who cosigned, and a fork if there is one."""
    page = call.page(lists.TREES)
    return call.listed(page, await call.desk.cmk.trees.shown({row["tree"] for row in page.rows}))


@operation("GET", "/trust", "ReadCheckpoints", name="listTrustEvents", answer=api.Page[dict[str, Any]], paged=True)
async def trust(call: Call) -> Response[bytes]:
    """List what the trust root said of governance's keys and the ledger's epochs: sealed events, base64."""
    return call.listed(call.page(lists.TRUST))


@operation("GET", "/checkpoints/{tree}/inclusion", "ReadCheckpoints", name="proveInclusion", answer=dict[str, Any],
           query=INCLUSION)  # fmt: skip
async def inclusion(call: Call) -> Response[bytes]:
    """Prove that `sequence` is a leaf of the tree at `size`."""
    return call.answer(call.desk.cmk.trees.inclusion(call.query["sequence"], _tree(call), call.query["size"]))


@operation("GET", "/checkpoints/{tree}/consistency", "ReadCheckpoints", name="proveConsistency",
           answer=dict[str, Any], query=CONSISTENCY)  # fmt: skip
async def consistency(call: Call) -> Response[bytes]:
    """Prove that the tree of `new` leaves begins with the tree of `old` leaves, in one `epoch`."""
    missing = sorted(name for name, value in call.query.items() if value is None)
    if missing:
        raise Invalid(f"{', '.join(missing)} is needed")
    asked = call.query
    return call.answer(call.desk.cmk.trees.consistency(_tree(call), asked["epoch"], asked["old"], asked["new"]))


@operation("POST", "/checkpoints/{tree}/cosignatures", "Cosign", name="cosign", body=CosignatureBody,
           answer=dict[str, Any], status=201)  # fmt: skip
async def cosign(call: Call) -> Response[bytes]:
    """Keep a witness's newest cosignature. It proves itself; who carries it here must only be known."""
    kept = await call.desk.cmk.trees.cosign(_tree(call), call.body.verifier, call.body.note)
    return answered(call.request, kept, status=201)
