"""What events of the trust root say of governance's sealing keys, at each place where they lie. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract.checkpoint import epoch_of
from openkcm.contract.retirement import end_at
from openkcm.execution.residence_state import State

__all__ = ["placed"]


def placed(state: State, decree: d.Decree, sequence: int) -> State:
    """Return the state with what a decree at this place says of keys; a decree known from another place says it anew.

    A restored ledger holds a retirement in another place, or lost it: then the epoch's opening ends the key there.
    """
    if isinstance(decree, d.SigningKeyRotated):
        after = _rotated(state, decree, sequence)
    elif isinstance(decree, d.LedgerOpened) and decree.epoch == epoch_of(sequence):
        earlier = {k: (p, end_at(ends, sequence)) for k, (p, ends) in state.retired.items() if min(ends) < decree.epoch}
        after = replace(state, retired={**state.retired, **earlier})
    else:
        return state
    if state.unjudged is not None and (after.keys.keys() - state.keys.keys() or after.retired != state.retired):
        first = min(state.unjudged, state.again_from or state.unjudged)  # it may be known now whose seal that was
        after = replace(after, unjudged=None, again_from=first)
    return after


def _rotated(state: State, x: d.SigningKeyRotated, sequence: int) -> State:
    """Take a new key of governance in. A retired one is retired for ever, in whatever order the two arrive."""
    keys, retired = dict(state.keys), dict(state.retired)
    for key in x.retires:
        before, ends = retired.get(key, (b"", {}))
        public, _ = keys.pop(key, (before, ""))
        retired[key] = public, end_at(ends, sequence)
    if x.key in retired:
        retired[x.key] = (x.public_key, retired[x.key][1])
    else:
        keys[x.key] = (x.public_key, "cmk")
    return replace(state, keys=keys, retired=retired)
