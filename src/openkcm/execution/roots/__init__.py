"""The customers' keystores: `open_root` opens the backend a reference names. Backends are imported when first used."""

from __future__ import annotations

import importlib
from typing import Final, cast

from openkcm.contract.decrees import RootReference
from openkcm.contract.errors import NameError_
from openkcm.contract.rootnames import check_credential
from openkcm.execution.roots.base import Root, RootError, RootSettings

__all__ = ["BACKENDS", "open_root"]

#: Provider -> module that has an `open_root(reference, settings)`. A provider that is not here is not built.
BACKENDS: Final = {
    provider: f"openkcm.execution.roots.{provider}" for provider in ("aws", "azure", "file", "gcp", "kmip", "pkcs11")
}


def open_root(reference: RootReference, settings: RootSettings, tenant: str | None = None) -> Root:
    """Return the root a reference names, ready to be asked. Connects to nothing yet.

    Args:
        tenant: For whom it will be asked: a credential may serve some tenants only.

    Raises:
        RootError: No such backend, one that node.toml does not allow, a reference it cannot have, or a credential that
            serves others (Misconfigured).
    """
    if reference.provider not in BACKENDS:
        raise RootError("Misconfigured", f"roots at {reference.provider!r} are not supported by this version")
    if reference.provider not in settings.policy.providers:
        raise RootError("Misconfigured", f"node.toml does not allow roots at {reference.provider!r}: roots.providers")
    try:
        check_credential(reference, settings.policy, tenant)
    except NameError_ as bad:
        raise RootError("Misconfigured", str(bad)) from bad
    backend = importlib.import_module(BACKENDS[reference.provider])
    return cast("Root", backend.open_root(reference, settings))
