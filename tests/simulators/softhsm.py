"""SoftHSM2 for tests: the very one that `scripts/up --pkcs11` uses."""

from openkcm.cli.softhsm import SoftHsm, module_path

__all__ = ["SoftHsm", "module_path"]
