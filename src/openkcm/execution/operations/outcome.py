"""How an operation can end other than well. Pure values; knows no socket and no key.

OperationFailed   answered as a failed batch item, with its Result Reason
└── AccessRefused the residence, the workload or the lease says no, whatever the object
Wanted            not an end: something must be asked of the custodian first, then the operation starts anew
├── KeysWanted    where a registration's keys are
├── ObjectWanted  an object that this node's catalogue does not have
└── RoomWanted    room in the log of hand-outs
"""

from __future__ import annotations

from typing import Final

from openkcm.execution.arena import Gate
from openkcm.kmip.enums import ResultReason

__all__ = [
    "REFUSALS",
    "VERDICTS",
    "AccessRefused",
    "KeysWanted",
    "ObjectWanted",
    "OperationFailed",
    "RoomWanted",
    "Wanted",
    "archived",
    "not_found",
    "refusal",
]


class OperationFailed(Exception):
    """The item fails; others of its batch may succeed."""

    def __init__(self, reason: ResultReason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class AccessRefused(OperationFailed):
    """Nobody may use this residence's keys so now."""


class Wanted(Exception):
    """Ask the custodian, then start the operation anew. Nothing was done yet."""


class KeysWanted(Wanted):
    """The system's keys are elsewhere than we knew, or nowhere yet. `version`: one that must be among them, or 0."""

    def __init__(self, version: int = 0) -> None:
        super().__init__(version)
        self.version = version


class ObjectWanted(Wanted):
    """Only the vault can say whether this object exists."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


class RoomWanted(Wanted):
    """The custodian has not taken the earlier hand-outs yet."""


#: What a closed gate says to a client.
REFUSALS: Final[dict[Gate, tuple[ResultReason, str]]] = {
    Gate.REVOKED: (ResultReason.PERMISSION_DENIED, "access revoked"),
    Gate.REMOVED: (ResultReason.PERMISSION_DENIED, "access revoked"),
    Gate.DESTROYED: (ResultReason.PERMISSION_DENIED, "access revoked"),
    Gate.LOCKED: (ResultReason.PERMISSION_DENIED, "locked: the customer's root key refuses"),
    Gate.SUSPENDED: (ResultReason.PERMISSION_DENIED, "access suspended: nothing new is encrypted, reads go on"),
    Gate.DECRYPT_ONLY: (ResultReason.PERMISSION_DENIED, "this key version decrypts only"),
    Gate.COLD: (ResultReason.GENERAL_FAILURE, "the keys are not available: not unsealed, or the lease is over"),
    Gate.EMPTY: (ResultReason.GENERAL_FAILURE, "the keys are not available: not unsealed, or the lease is over"),
}

#: The same for a residence without keys in the arena, by the custodian's verdict on it.
VERDICTS: Final[dict[str, Gate]] = {
    "revoked": Gate.REVOKED,
    "destroyed": Gate.DESTROYED,
    "frozen": Gate.LOCKED,
    "locked": Gate.LOCKED,
}


def refusal(gate: int) -> AccessRefused:
    """Return the error of a gate in this state; an unknown state refuses like a cold one."""
    try:
        return AccessRefused(*REFUSALS[Gate(gate)])
    except (KeyError, ValueError):
        return AccessRefused(*REFUSALS[Gate.COLD])


def not_found() -> OperationFailed:
    """Return the error for no object, and for another's: they look the same."""
    return OperationFailed(ResultReason.ITEM_NOT_FOUND, "no such object")


def archived() -> OperationFailed:
    """Return the error for an object that is out of use until it is recovered."""
    return OperationFailed(ResultReason.OBJECT_ARCHIVED, "the object is archived: recover it first")
