"""`CheckpointPublished`: a checkpoint on its way to regions and witnesses, sealed by governance. Pure.

Its stream is its own, one subject a tree; the sealed counter counts there. It is no decree: nodes compare it with what
they hold and obey nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from openkcm.contract import checkpoint as cp
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from openkcm.contract.errors import ContractError, PayloadError
from openkcm.contract.ids import event_id

__all__ = ["CHECKPOINT_TAG", "CheckpointPublished", "Published", "open_published", "seal_published"]

CHECKPOINT_TAG: Final = "CheckpointPublished.1"


class CheckpointPublished(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signed note, as text."""

    note: Annotated[str, Meta(min_length=1, max_length=4096)]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A published checkpoint that was verified. `counter` is its number in its tree's own subject, from 1."""

    counter: int
    note: cp.Note
    checkpoint: cp.Checkpoint
    at_ms: int
    key: str


_DECODER: Final = msgspec.json.Decoder(CheckpointPublished)


def seal_published(
    point: cp.Checkpoint, signer: seal.Signer, *, counter: int, epoch: int, at_ms: int, time_source: str,
    vouched: bool = False,
) -> env.Envelope:  # fmt: skip
    """Return the checkpoint, signed as a note and sealed for its subject, in the ledger's open epoch.

    Args:
        vouched: The signer's word over its own seals stands beside its signature (`checkpoint.vouch`).
    """
    text = point.text()
    lines = [cp.sign(text, point.origin, signer), *([cp.vouch(text, point.origin, signer)] if vouched else [])]
    note = cp.Note(text, tuple(lines))
    subject = subjects.checkpoint(point.tree)
    own = event_id("_", "notary", CHECKPOINT_TAG, f"{point.origin}/{counter}/{point.size}/{at_ms}", subject)
    unsealed = env.Envelope(
        id=own, tag=CHECKPOINT_TAG, subject=subject, counter=counter, epoch=epoch,
        actor=env.Actor(issuer="cmk", subject="notary"), correlation=own, at_ms=at_ms, time_source=time_source,
        key=signer.key_id, data=msgspec.Raw(msgspec.json.encode(CheckpointPublished(note=str(note)))),
    )  # fmt: skip
    return env.seal_envelope(unsealed, signer)


def open_published(subject: str, body: bytes, keys: Mapping[str, bytes], ledger: str) -> Published:
    """Return the checkpoint in a stored message.

    (1) one envelope, sealed by one of `keys` for this subject; (2) a checkpoint of this ledger's, of the subject's
    tree; (3) whose note the same key signed.

    Raises:
        ContractError: Any of the three does not hold.
    """
    e = env.decode(body)
    env.verify(e, subject, keys)  # (1)
    if e.tag != CHECKPOINT_TAG:
        raise PayloadError(f"{e.tag} on {subject}")
    try:
        note = cp.parse_note(_DECODER.decode(e.data).note)
    except msgspec.MsgspecError as bad:
        raise PayloadError(f"{e.tag}: {bad}") from bad
    point = note.checkpoint()
    if subject != subjects.checkpoint(point.tree) or point.origin != cp.origin_of(
        ledger, point.tree, point.epoch
    ):  # (2)
        raise ContractError(f"a checkpoint of {point.origin} on {subject}")
    cp.verify(note, cp.verifier_key(point.origin, keys[e.key]))  # (3)
    return Published(counter=e.counter, note=note, checkpoint=point, at_ms=e.at_ms, key=e.key)
