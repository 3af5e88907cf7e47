"""Who was recognised lately, by a keyed hash of what they showed. Recognises nobody by itself; holds no credential.

What is remembered spares a second check of a signature, and tells a caller from a stranger before anything costs.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final

from openkcm.governance.portal.auth import Identity

__all__ = ["Known"]

KEPT_S: Final = 60.0
MAX_KNOWN: Final = 20_000


class Known:
    """The memory of one portal. `wall`: UTC in seconds, for what expires by its own word."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock, self._wall = clock, wall
        self._secret = secrets.token_bytes(32)
        self._kept: dict[bytes, tuple[Identity, float]] = {}

    def find(self, credential: str) -> Identity | None:
        """Return whose it is, if that was found out within the last minute and holds still."""
        name = self._name(credential)
        identity, until = self._kept.get(name, (None, 0.0))
        if identity is None or until <= self._clock() or identity.expires_s <= self._wall():
            self._kept.pop(name, None)
            return None
        return identity

    def keep(self, credential: str, identity: Identity) -> None:
        """Remember for a minute whose it is; the oldest makes way."""
        name = self._name(credential)
        self._kept.pop(name, None)
        if len(self._kept) >= MAX_KNOWN:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = (identity, self._clock() + KEPT_S)

    def forget(self, credential: str) -> None:
        """Forget one, because it does not hold any more."""
        self._kept.pop(self._name(credential), None)

    def forget_all(self) -> None:
        """Forget all: the issuer has other keys."""
        self._kept.clear()

    def _name(self, credential: str) -> bytes:
        return hashlib.blake2b(credential.encode("utf-8", "surrogateescape"), digest_size=16, key=self._secret).digest()
