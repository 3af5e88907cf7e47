"""NATS user keys (nkeys): seeds and their public halves. Writes nothing."""

from __future__ import annotations

import os

import nkeys

__all__ = ["new_seed", "public_key"]


def new_seed() -> bytes:
    """Return the seed of a new user, as text in bytes: what an nkey file holds."""
    return bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))


def public_key(seed: bytes) -> str:
    """Return the public nkey (`U...`) of a seed.

    Raises:
        ValueError: Not a user's seed.
    """
    try:
        pair = nkeys.from_seed(bytearray(seed.strip()))
    except Exception as bad:  # the library raises several kinds
        raise ValueError("not an nkey seed") from bad
    public = bytes(pair.public_key).decode()
    pair.wipe()
    if not public.startswith("U"):
        raise ValueError("an nkey, but not a user's")
    return public
