"""What a ledger hands out, wherever it lies: on a hub, in a mirror, an export, a backup, a read model. Pure."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Identified", "Message"]


class Message(Protocol):
    """One stored event."""

    @property
    def sequence(self) -> int:
        """The stream's sequence: a cursor."""

    @property
    def subject(self) -> str:
        """Where it was found."""

    @property
    def body(self) -> bytes:
        """Its bytes: one envelope."""


class Identified(Message, Protocol):
    """One with the id under which it is stored."""

    @property
    def id(self) -> str:
        """Its id in the stream."""
