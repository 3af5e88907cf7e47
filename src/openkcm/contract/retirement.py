"""Where a retired key of governance's ends. Pure; the one rule of nodes, governance and audits alike (ADR 0058).

A key seals nothing that lies behind its retirement, in any stream of the ledger there ever was:

1. in a stream that holds the `SigningKeyRotated`, from that decree's own place in it on;
2. in a later epoch's stream that lost the decree, from the `LedgerOpened` of that epoch on: all that a restore brings
   along lies before it;
3. a restored stream is read while neither is read yet. Then only what comes in the order of the lane that the
   retirement itself is in may be the key's; the other lane waits.

Governance and audits read one stream, in its order: to them rule 1 is all there is. So a restore retires once more,
behind the opening, whatever key the ledger would believe and governance has no more.
"""

from __future__ import annotations

from collections.abc import Mapping

from openkcm.contract.checkpoint import epoch_of

__all__ = ["before_end", "end_at"]


def end_at(ends: Mapping[int, int], sequence: int) -> dict[int, int]:
    """Return where a key ends in each epoch's stream, once a retirement is met at `sequence`: the first one counts."""
    epoch = epoch_of(sequence)
    return {**ends, epoch: min(sequence, ends.get(epoch, sequence))}


def before_end(ends: Mapping[int, int], sequence: int, *, in_order: bool) -> bool:
    """Return whether a retired key may have sealed what lies at `sequence`.

    Args:
        ends: Epoch of a stream -> sequence in it from which on the key seals nothing; not empty.
        in_order: All that the lane of retirements holds before `sequence` was read.
    """
    epoch = epoch_of(sequence)
    if epoch in ends:
        return sequence < ends[epoch]
    return in_order or epoch < min(ends)
