"""Which API, and who: profiles in one file of the person's own, 0600. A token lies there until it is over."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

__all__ = ["Profile", "load", "save"]


class Profile(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One API as one person.

    Attributes:
        token: Bearer token; a service's begins with `okcm-`.
        account: Of the one-command stack's provider, which asks nobody.
        approval_key: File with the 32-byte seed of an Ed25519 approval key.
        tenant, region: What a command means that names none.
    """

    url: str
    issuer: str
    client_id: str = "openkcm-portal"
    ca: str | None = None
    token: str = ""
    account: str | None = None
    approval_key: str | None = None
    tenant: str | None = None
    region: str | None = None


def _path() -> Path:
    own = os.environ.get("OPENKCM_CONFIG")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "openkcm"
    return (Path(own) if own else base) / "profiles.json"


def load() -> dict[str, Profile]:
    """Return all profiles by name.

    Raises:
        ValueError: The file is none of ours.
    """
    path = _path()
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Profile])
    except msgspec.MsgspecError as bad:
        raise ValueError(f"{path}: {bad}") from bad


def save(name: str, profile: Profile) -> None:
    """Keep a profile."""
    from openkcm.cli import pki  # an import of `openkcm` alone loads no cipher

    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pki.write_private(path, msgspec.json.format(msgspec.json.encode({**load(), name: profile}), indent=2))
