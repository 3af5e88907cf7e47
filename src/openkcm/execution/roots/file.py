"""A root that is a file of the customer's: one line a version, the last one current. Never creates nor changes it.

    v1:<base64 of 32 bytes>
    v2:<base64 of 32 bytes>

For laptops, tests and air-gapped sites. The node reads the key itself here, so this is custody by file permission: the
file must be 0600 (or stricter), ours or root's, and lie in a directory that node.toml allows.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openkcm.contract.decrees import RootReference
from openkcm.execution.roots.asking import context_bytes
from openkcm.execution.roots.base import KEK_BYTES, Canary, RootError, RootInfo, RootSettings, Wrapped, check_canary

__all__ = ["FileRoot", "open_root"]

MAX_FILE_BYTES: Final = 65536
NONCE_BYTES: Final = 12
_LINE: Final = re.compile(r"(v[1-9][0-9]{0,5}):([A-Za-z0-9+/]{43}=)\Z")


class FileRoot:
    """One key file. Read anew by every call: the customer may add a line, or take the file away."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<file root {self._path}>"

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap by the last line's key, AES-256-GCM with the context as additional data."""
        if len(plaintext) != KEK_BYTES:
            raise RootError("Misconfigured", f"{len(plaintext)} bytes to wrap; a KEK has {KEK_BYTES}")
        version, key = list(self._keys().items())[-1]
        nonce = os.urandom(NONCE_BYTES)
        return Wrapped(
            ciphertext=nonce + AESGCM(key).encrypt(nonce, plaintext, context_bytes(context)), root_version=version
        )

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Unwrap by the line of `root_version`."""
        key = self._keys().get(root_version)
        if key is None:
            raise RootError("KeyNotFound", f"the key file has no {root_version[:32]!r}")
        try:
            secret = AESGCM(key).decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], context_bytes(context))
        except (InvalidTag, ValueError) as bad:
            raise RootError("WrongContext", "not wrapped by this key for this residence") from bad
        if len(secret) != KEK_BYTES:
            raise RootError("WrongContext", f"{len(secret)} bytes where a KEK has {KEK_BYTES}")
        return secret

    def describe(self) -> RootInfo:
        """Name the last line."""
        return RootInfo(version=list(self._keys())[-1])

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary, then describe."""
        check_canary(self, canary, context)
        return self.describe()

    def _keys(self) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        for number, line in enumerate(self._text().splitlines(), 1):
            if not line.strip():
                continue
            found = _LINE.match(line.strip())
            if found is None:  # the line itself is never quoted: it may be a key
                raise RootError("Misconfigured", f"{self._path}, line {number}: not `v<n>:<base64 of 32 bytes>`")
            if found[1] in keys:
                raise RootError("Misconfigured", f"{self._path}, line {number}: {found[1]} again")
            try:
                keys[found[1]] = base64.b64decode(found[2], validate=True)
            except binascii.Error as bad:
                raise RootError("Misconfigured", f"{self._path}, line {number}: not base64") from bad
        if not keys:
            raise RootError("KeyNotFound", f"{self._path} holds no key")
        return keys

    def _text(self) -> str:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as gone:
            raise RootError("KeyNotFound", f"{self._path} is not there") from gone
        except PermissionError as no:
            raise RootError("AccessDenied", f"{self._path}: {no.strerror}") from no
        except OSError as bad:
            raise RootError("Misconfigured", f"{self._path}: {bad.strerror}") from bad
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise RootError("Misconfigured", f"{self._path} is no regular file")
            if facts.st_mode & 0o077:
                mode = stat.S_IMODE(facts.st_mode)
                raise RootError("Misconfigured", f"{self._path} has mode {mode:04o}: others may read it; make it 0600")
            if facts.st_uid not in {0, os.geteuid()}:
                raise RootError("Misconfigured", f"{self._path} belongs to user {facts.st_uid}, not to us")
            if facts.st_size > MAX_FILE_BYTES:
                raise RootError("Misconfigured", f"{self._path} has {facts.st_size} bytes, over {MAX_FILE_BYTES}")
            return os.read(fd, MAX_FILE_BYTES).decode("ascii")
        except UnicodeDecodeError as bad:
            raise RootError("Misconfigured", f"{self._path} is not ASCII text") from bad
        except OSError as bad:
            raise RootError("Unreachable", f"{self._path}: {bad.strerror}") from bad
        finally:
            os.close(fd)


def open_root(reference: RootReference, settings: RootSettings) -> FileRoot:
    """Return the file root that a reference names: a path inside an allowed directory, or relative to one of them.

    Raises:
        RootError: Outside the allowed directories (Misconfigured).
    """
    allowed = [Path(os.path.realpath(directory)) for directory in settings.policy.directories]
    if not allowed:
        raise RootError("Misconfigured", "node.toml allows no directory for key files: roots.directories")
    inside = [path for directory in allowed if (path := _within(directory, reference.ref)) is not None]
    if inside:  # a relative name may lie in any of them; one that lies in none is looked for in the first, and missed
        return FileRoot(next((path for path in inside if path.exists()), inside[0]))
    raise RootError("Misconfigured", f"{reference.ref[:200]!r} lies in no directory that roots.directories allows")


def _within(directory: Path, ref: str) -> Path | None:
    path = directory / ref  # an absolute `ref` replaces the directory
    if path.name in {"", ".", ".."}:
        return None
    # The directory part is resolved, the file is not: it may be gone, and it must be no link (O_NOFOLLOW).
    found = Path(os.path.realpath(path.parent)) / path.name
    return found if directory in found.parents else None
