"""Checkpoints of the ledger's trees, proofs, and the witnesses' cosignatures."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath
from msgspec import Meta

from openkcm.contract.ids import check_token
from openkcm.governance.errors import Invalid
from openkcm.governance.portal.requests import Req, answered, desk_of, number, token_of

__all__ = ["ROUTES"]


class CosignatureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST cosignatures. `verifier`: the witness's key as signed-note spells it; `note`: checkpoint with its line."""

    verifier: Annotated[str, Meta(max_length=512)]
    note: Annotated[str, Meta(max_length=8192)]


@get("/checkpoints")
async def checkpoints(request: Req) -> Response[bytes]:
    """Return each tree: its size and root, its newest signed checkpoint, who cosigned, and a fork if there is one."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadCheckpoints", None)
    values = await desk.cmk.trees.shown()
    return answered(request, {"value": values, "count": len(values)})


@get("/checkpoints/{tree:str}/inclusion")
async def inclusion(request: Req, tree: FromPath[str]) -> Response[bytes]:
    """Return the proof that `sequence` is a leaf of the tree at `size` (default: now)."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadCheckpoints", None)
    name, sequence = token_of(tree, check_token, "tree"), number(request, "sequence", 0)
    size = number(request, "size", 0) if "size" in request.query_params else None
    return answered(request, desk.cmk.trees.inclusion(sequence, name, size))


@get("/checkpoints/{tree:str}/consistency")
async def consistency(request: Req, tree: FromPath[str]) -> Response[bytes]:
    """Return the proof that the tree of `new` leaves begins with the tree of `old` leaves, in one `epoch`."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadCheckpoints", None)
    name = token_of(tree, check_token, "tree")
    missing = {"epoch", "old", "new"} - set(request.query_params)
    if missing:
        raise Invalid(f"{', '.join(sorted(missing))} is needed")
    epoch, old, new = (number(request, what, 0) for what in ("epoch", "old", "new"))
    return answered(request, desk.cmk.trees.consistency(name, epoch, old, new))


@post("/checkpoints/{tree:str}/cosignatures")
async def cosign(request: Req, tree: FromPath[str]) -> Response[bytes]:
    """Keep a witness's newest cosignature: 201. It proves itself; who carries it here must only be known."""
    desk = desk_of(request)
    await desk.allowed(request, "Cosign", None)
    body = await desk.body(request, CosignatureBody)
    name = token_of(tree, check_token, "tree")
    return answered(request, await desk.cmk.trees.cosign(name, body.verifier, body.note), status=201)


ROUTES = [checkpoints, inclusion, consistency, cosign]
