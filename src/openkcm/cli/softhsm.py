"""A local HSM for demos and tests: SoftHSM2, and the customer's side of it. No part of a node.

What is done here (make keys, switch them off) is what a customer does on its own HSM; nodes only use keys.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

__all__ = ["PIN", "SoftHsm", "module_path"]

PIN: Final = "local-stack-only"  # tokens in a directory of ours; it guards nothing
SO_PIN: Final = "local-stack-only-so"
#: Where distributions put the module.
PLACES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)  # fmt: skip


def module_path() -> str | None:
    """Return the path of SoftHSM's library; None when it, or its tool, is not installed."""
    found = next((place for place in PLACES if Path(place).exists()), None)
    return found if shutil.which("softhsm2-util") else None


class SoftHsm:
    """One directory of tokens.

    Attributes:
        module: Path of the library.
        environment: What a node's credential sets for it: `SOFTHSM2_CONF=...`.
        pin_file: The user PIN of every token here, 0600.
    """

    def __init__(self, directory: Path) -> None:
        """Lay out the directory, or use it as it is.

        Raises:
            ValueError: SoftHSM is not installed.
        """
        module = module_path()
        if module is None:
            raise ValueError("SoftHSM2 is not installed: the package softhsm2 of your distribution")
        self.module = module
        self._tokens = directory / "tokens"
        self._tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._conf = directory / "softhsm2.conf"
        self._conf.write_text(f"directories.tokendir = {self._tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.environment = f"SOFTHSM2_CONF={self._conf}"
        self.pin_file = directory / "pin"
        self.pin_file.touch(0o600)
        self.pin_file.write_text(f"{PIN}\n")

    def has_token(self, label: str) -> bool:
        """Whether there is a token of that label."""
        return any(token.label == label for token in self._library().get_tokens())

    def make_token(self, label: str) -> None:
        """Make a token."""
        self._tool("--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN)

    def drop_token(self, label: str) -> None:
        """Delete a token with all its keys."""
        self._tool("--delete-token", "--token", label)

    def token_directory(self, label: str) -> Path:
        """Return where the files of a token lie."""
        with self._session(label) as session:
            serial = session.token.serial.decode()
        return next(path for path in self._tokens.iterdir() if path.name.replace("-", "").endswith(serial))

    def make_key(self, token: str, label: str) -> None:
        """Make an AES-256 key that never leaves the token, with an id one higher than the highest of its label."""
        from pkcs11 import Attribute, KeyType, MechanismFlag

        with self._session(token) as session:
            ids = [int.from_bytes(key[Attribute.ID], "big") for key in _keys(session, label)]
            session.generate_key(
                KeyType.AES, 256, label=label, id=(max(ids, default=0) + 1).to_bytes(2, "big"), store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )  # fmt: skip

    def allow(self, token: str, label: str, *, use: bool) -> None:
        """Let the keys of a label encrypt and decrypt, or not."""
        from pkcs11 import Attribute

        with self._session(token) as session:
            for key in _keys(session, label):
                key[Attribute.ENCRYPT] = use
                key[Attribute.DECRYPT] = use

    def destroy(self, token: str, label: str) -> None:
        """Destroy all keys of a label."""
        with self._session(token) as session:
            for key in _keys(session, label):
                key.destroy()

    def versions(self, token: str, label: str) -> int:
        """Count the keys of a label."""
        with self._session(token) as session:
            return len(_keys(session, label))

    def _session(self, token: str) -> AbstractContextManager[Any]:
        opened: AbstractContextManager[Any] = self._library().get_token(token_label=token).open(rw=True, user_pin=PIN)
        return opened

    def _library(self) -> Any:
        import pkcs11

        os.environ["SOFTHSM2_CONF"] = str(self._conf)
        library = pkcs11.lib(self.module)
        library.reinitialize()  # it lists the tokens once, when it is initialized
        return library

    def _tool(self, *arguments: str) -> None:
        done = subprocess.run(
            ["softhsm2-util", *arguments], env={**os.environ, "SOFTHSM2_CONF": str(self._conf)}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"softhsm2-util {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")


def _keys(session: Any, label: str) -> list[Any]:
    from pkcs11 import Attribute, ObjectClass

    return list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label}))
