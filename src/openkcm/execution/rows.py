"""A node's state as rows of its SQLite, and back. Pure: names statements of `projections/node/rows/`, runs none."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from openkcm.contract.checkpoint import epoch_of
from openkcm.execution.residence_state import Effect, Mark, Residence, Row, State, verdict

__all__ = ["committed", "load", "node_row", "residence_row"]

Named = tuple[str, Row]
UNREADABLE = "unreadable-row"
_RESIDENCE = msgspec.json.Decoder(Residence)


class _Node(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a State that is not a residence and outlives a restart."""

    epoch: int
    keys: dict[str, tuple[bytes, str]]
    retired: dict[str, tuple[bytes, dict[int, int] | int]] = {}  # int: an earlier version's, of the first stream alone
    seen_routine: int = 0
    seen_critical: int = 0
    nodes: dict[str, str]
    removed_nodes: frozenset[str] = frozenset()
    former: dict[str, tuple[bytes, str]] = {}
    ledger_routine: dict[int, Mark]
    ledger_critical: dict[int, Mark]
    chain: bytes
    beat: tuple[str, int] | None
    dropped: dict[str, int]
    withheld: dict[str, tuple[str, int] | None] = {}
    unjudged: int | None = None
    again_from: int | None = None
    fork: str | None = None
    short: str | None = None


_NODE = msgspec.json.Decoder(_Node)


def node_row(state: State) -> Named:
    """Return the node's own row: cursors, keys, chain, newest honoured nonce."""
    body = _Node(**{f: getattr(state, f) for f in _Node.__struct_fields__})
    return "node", {
        "cursor_routine": state.cursor_routine,
        "cursor_critical": state.cursor_critical,
        "body": msgspec.json.encode(body),
    }


def residence_row(residence: Residence) -> Named:
    """Return a residence's row: the figures an operator asks for, and the whole of it."""
    r = residence
    return "residence", {
        "tenant": r.tenant,
        "generation": max((m.floor for m in r.routine.values()), default=0),
        "fence": max((m.floor for m in r.critical.values()), default=0),
        "verdict": verdict(r),
        "lease_s": r.lease_s,
        "root": None if r.root is None else f"{r.root.provider}:{r.root.ref}",
        "body": msgspec.json.encode(r),
    }


def committed(before: State, after: State, effects: Iterable[Effect]) -> list[Effect]:
    """Fill the (one) commit among `effects` with every row that changed; add one when there is none."""
    changed = [r for t, r in after.residences.items() if before.residences.get(t) is not r]
    filled = Effect("commit", rows=(*(residence_row(r) for r in changed), node_row(after)))
    out = [filled if x.kind == "commit" else x for x in effects]
    return out if any(x.kind == "commit" for x in out) else [*out, filled]


def load(fresh: State, node: tuple[int, int, bytes] | None, residences: Iterable[bytes]) -> State:
    """Return the state that the rows hold. Nonces and waiting beats die with the process. A row that cannot be read is
    left out and counted: its residence serves nobody until governance has it read again from the mirrors.

    Args:
        fresh: Who and where we are, this boot.
        node: (cursor_routine, cursor_critical, body), or None on an empty database.
        residences: Bodies of the residence rows.
    """
    if node is None:
        return fresh
    kept = _NODE.decode(node[2])
    loaded = []
    for raw in residences:
        try:
            loaded.append(_RESIDENCE.decode(raw))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # unknown is closed, until it is read again
            kept = replace(kept, dropped={**kept.dropped, UNREADABLE: kept.dropped.get(UNREADABLE, 0) + 1})
    outdated = kept.epoch > 1 and any(isinstance(at, int) for _, at in kept.retired.values())  # the lane has the others
    ends = {k: (p, {epoch_of(at): at} if isinstance(at, int) else at) for k, (p, at) in kept.retired.items()}
    kept = replace(kept, retired=ends)
    return replace(
        fresh,
        cursor_routine=node[0],
        cursor_critical=node[1],
        recent_heads={node[1]: kept.chain},
        residences={r.tenant: r for r in loaded},
        forked=outdated,
        **{f: getattr(kept, f) for f in _Node.__struct_fields__},
    )
