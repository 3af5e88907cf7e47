"""What a node is told, as frozen values: the inputs of `desired.step`. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from openkcm.contract.ids import Lane
from openkcm.execution.residence_state import Residence

__all__ = [
    "Arrived",
    "BeatArrived",
    "BroughtAbout",
    "ForkSeen",
    "Held",
    "Input",
    "MirrorMeasured",
    "MirrorShort",
    "NonceSent",
    "ReadAgain",
    "Reread",
    "RootObserved",
    "StrangerMet",
]


class Arrived(msgspec.Struct, frozen=True):
    """A message of the ledger, under its own subject even when it came on lane0.

    Attributes:
        final: Do not wait any longer for a key that may still be announced.
    """

    source: Literal["lane0", "critical", "routine"]
    sequence: int
    subject: str
    body: bytes
    now_ns: int
    final: bool = False


class BeatArrived(msgspec.Struct, frozen=True):
    """Governance's sign of life."""

    subject: str
    body: bytes


class NonceSent(msgspec.Struct, frozen=True):
    """A HealthCheck with this nonce is about to leave; its lease would count from now."""

    nonce: str
    now_ns: int


class RootObserved(msgspec.Struct, frozen=True):
    """What the customer's root answered, as the watch has confirmed it."""

    tenant: str
    state: str


class BroughtAbout(msgspec.Struct, frozen=True):
    """The custodian has brought a residence to its desired state, or could not; `rotations` are done."""

    tenant: str
    failure: str | None
    rotations: tuple[str, ...] = ()


class MirrorMeasured(msgspec.Struct, frozen=True):
    """The mirrors' last sequences, read at start."""

    last_routine: int
    last_critical: int


class ForkSeen(msgspec.Struct, frozen=True):
    """The ledger has two histories; `why` names the checkpoints. Holds until an epoch is opened."""

    why: str


class MirrorShort(msgspec.Struct, frozen=True):
    """The mirror lacks events that governance signed; `why` names the checkpoint. None: it lacks none any more."""

    why: str | None


class ReadAgain(msgspec.Struct, frozen=True):
    """A lane is about to be read again: the routine one from where a residence froze, the critical one from its start
    (the head that governance names is not ours).
    """

    lane: Lane


class StrangerMet(msgspec.Struct, frozen=True):
    """A vault record lies under a key that nobody announced to us: a stranger's, or its enrolment was kept from us."""


class Held(msgspec.Struct, frozen=True):
    """One message of a mirror."""

    sequence: int
    subject: str
    body: bytes


class Reread(msgspec.Struct, frozen=True):
    """All that the mirrors hold of a residence, each lane in its order.

    Attributes:
        final: Do not wait any longer for what a mirror may still be about to get.
        told: What came before these messages, folded already (`reread.folded`): a long history takes seconds.
    """

    tenant: str
    routine: tuple[Held, ...]
    critical: tuple[Held, ...]
    now_ns: int
    final: bool = False
    told: Residence | None = None


Input = (
    ForkSeen | Arrived | BeatArrived | NonceSent | RootObserved | BroughtAbout | MirrorMeasured | ReadAgain | Reread
    | StrangerMet | MirrorShort
)  # fmt: skip
