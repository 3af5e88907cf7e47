"""SoftHSM2 for tests: the very one that `scripts/up --pkcs11` uses."""

from __future__ import annotations

from pathlib import Path

from openkcm.cli import softhsm
from openkcm.cli.softhsm import module_path

__all__ = ["SoftHsm", "forget_libraries", "module_path"]


class SoftHsm(softhsm.SoftHsm):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        forget_libraries()


def forget_libraries() -> None:
    """A process of a node's has one HSM configuration; the tests' has one after another."""
    from openkcm.execution.roots import pkcs11

    pkcs11._IN_USE.clear()
