"""A root in an HSM behind PKCS#11, where it stays: AES-256-GCM on the token, context as additional data (HYOK).

The reference is an RFC 7512 URI; module and PIN are the node's own. All keys of one label are versions of one root: the
one with the highest CKA_ID wraps, each unwraps what it wrapped. The customer rotates by making another key of the same
label, cuts by switching CKA_DECRYPT off or by destroying the key.

Every call opens a session, logs in, and closes it again, one at a time in a process: a login belongs to the whole
process, and one session's close ends it for all. A vendor's library has no deadline: a call that is late is left alone
in its thread. Before a login the token's flags are read: with one try left we do not use it up, since a wrong PIN of
ours would lock the customer's token.

Settings (`roots.credentials.<name>` in node.toml; a reference without a credential uses the one named `pkcs11`):
    module       path of the vendor's library
    pin_file     0600 file with the user PIN
    environment  `NAME=value`, space-separated, that the library reads (SOFTHSM2_CONF, ChrystokiConfigurationPath)
Sources: PKCS #11 v2.40 base specification (return values), v3.0 section 6.13 (AES-GCM).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pkcs11
import pkcs11.exceptions as raised
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11.mechanisms import GCMParams

from openkcm.contract.decrees import RootReference
from openkcm.contract.reports import RootState
from openkcm.contract.rootnames import Pkcs11Key
from openkcm.execution.roots.asking import (
    ask,
    context_bytes,
    credential_of,
    framed,
    named,
    secret_file,
    unframed,
    within,
)
from openkcm.execution.roots.base import Canary, RootError, RootInfo, RootSettings, Wrapped, check_canary

__all__ = ["Pkcs11Root", "open_root"]

_T = TypeVar("_T")
NONCE_BYTES: Final = 12
TAG_BITS: Final = 128
_SETTINGS: Final = frozenset({"module", "pin_file", "environment"})
_UNMAPPED: Final = re.compile(r"0x([0-9a-f]+)")
_IN_USE: Final[dict[str, tuple[str, threading.Lock]]] = {}  # module -> its environment, and who may call it

#: Return value, as python-pkcs11 raises it -> what it means. Others are Unreachable: keep, alarm, ask again.
_MEANINGS: Final[dict[type[Exception], RootState]] = {
    raised.PinIncorrect: "CredentialRejected",
    raised.PinInvalid: "CredentialRejected",
    raised.PinLenRange: "CredentialRejected",
    raised.PinExpired: "CredentialRejected",
    raised.PinLocked: "CredentialRejected",
    raised.UserPinNotInitialized: "CredentialRejected",
    raised.UserTooManyTypes: "CredentialRejected",
    raised.AnotherUserAlreadyLoggedIn: "CredentialRejected",
    raised.NoSuchKey: "KeyNotFound",
    raised.KeyHandleInvalid: "KeyNotFound",
    raised.ObjectHandleInvalid: "KeyNotFound",
    raised.FunctionRejected: "AccessDenied",
    raised.SessionCount: "Throttled",
    raised.EncryptedDataInvalid: "WrongContext",
    raised.EncryptedDataLenRange: "WrongContext",
    raised.MechanismInvalid: "Misconfigured",
    raised.MechanismParamInvalid: "Misconfigured",
    raised.KeyTypeInconsistent: "Misconfigured",
    raised.KeySizeRange: "Misconfigured",
    raised.MultipleTokensReturned: "Misconfigured",
}
#: The same for values that python-pkcs11 has no class for.
_CODES: Final[dict[int, RootState]] = {
    0x1B: "AccessDenied",  # CKR_ACTION_PROHIBITED
    0x68: "KeyDisabled",  # CKR_KEY_FUNCTION_NOT_PERMITTED: CKA_ENCRYPT or CKA_DECRYPT is off
}


class Pkcs11Root:
    """The keys of one label (or one key of an id) on a token."""

    def __init__(self, name: Pkcs11Key, credential: Mapping[str, str], deadline_s: float) -> None:
        self._name, self._credential, self._deadline_s = name, credential, deadline_s

    def __repr__(self) -> str:
        return f"<pkcs11 root {self._name.object or self._name.id!r} on {self._name.token or self._name.serial}>"

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap by the key with the highest id, AES-256-GCM on the token; unwrap the answer before it is relied on."""
        frame, nonce, aad = framed(plaintext, context), os.urandom(NONCE_BYTES), context_bytes(context)

        def work(session: Any) -> Wrapped:
            key = self._current(session)
            _usable(key)
            sealed = nonce + bytes(key.encrypt(frame, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, aad)))
            if _opened(key, sealed, aad) != frame:
                raise RootError("WrongContext", "the token unwraps its own answer to something else")
            return Wrapped(ciphertext=sealed, root_version=_version(key))

        return self._ask(work)

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Unwrap by the key of that id."""
        aad = context_bytes(context)
        return unframed(self._ask(lambda session: _opened(self._of(session, root_version), ciphertext, aad)), context)

    def describe(self) -> RootInfo:
        """Name the key with the highest id."""

        def work(session: Any) -> RootInfo:
            key = self._current(session)
            _usable(key)
            return RootInfo(version=_version(key))

        return self._ask(work)

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary, then describe."""
        check_canary(self, canary, context)
        return self.describe()

    # --- the token ----------------------------------------------------------------------------------------------------

    def _current(self, session: Any) -> Any:
        keys = self._keys(session, self._name.id)
        if not keys:
            raise RootError("KeyNotFound", f"no AES key {self._name.object or _hex(self._name.id)!r} on the token")
        return max(keys, key=lambda key: int.from_bytes(key[Attribute.ID], "big"))

    def _of(self, session: Any, root_version: str) -> Any:
        keys = [key for key in self._keys(session, self._name.id) if _version(key) == root_version]
        if not keys:
            raise RootError("KeyNotFound", f"no key {root_version[:80]!r} on the token")
        return keys[0]

    def _keys(self, session: Any, key_id: bytes | None) -> list[Any]:
        wanted: dict[Any, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES}
        if self._name.object is not None:
            wanted[Attribute.LABEL] = self._name.object
        if key_id is not None:
            wanted[Attribute.ID] = key_id
        return list(session.get_objects(wanted))

    def _ask(self, work: Callable[[Any], _T]) -> _T:
        module = self._credential.get("module")
        if module is None:
            raise RootError("Misconfigured", "this credential needs 'module': roots.credentials")
        if not Path(module).is_file():
            raise RootError("Misconfigured", f"{module} is no file: the library of roots.credentials")
        environment = self._credential.get("environment", "")
        ours, lock = _IN_USE.setdefault(module, (environment, threading.Lock()))
        if ours != environment:  # the library reads it once a process
            raise RootError("Misconfigured", f"{module} is in use with another environment")
        pin = secret_file(self._credential, "pin_file").decode(errors="replace")

        def alone(left_s: float) -> _T:
            until = time.monotonic() + left_s
            if not lock.acquire(timeout=left_s):
                raise RootError("Unreachable", "the token still works on an earlier call")

            def run() -> _T:
                try:
                    return self._session(module, environment, pin, work)
                finally:
                    lock.release()  # in the thread: a late call keeps the next one out until it is over

            return within(run, max(until - time.monotonic(), 0.001), "the token")

        return ask(alone, self._deadline_s)

    def _session(self, module: str, environment: str, pin: str, work: Callable[[Any], _T]) -> _T:
        try:
            os.environ.update(pair.partition("=")[::2] for pair in environment.split())
            token = self._token(pkcs11.lib(module))
            check_tries(token.flags)
            with token.open(user_pin=pin) as session:
                return work(session)
        except raised.PKCS11Error as bad:
            raise RootError(_meaning(bad), f"{type(bad).__name__}: {bad}") from bad
        except RuntimeError as bad:
            raise RootError("Misconfigured", f"{module}: {bad}") from bad

    def _token(self, library: Any) -> Any:
        wanted = {"token_label": self._name.token, "token_serial": (self._name.serial or "").encode() or None}
        found = {name: value for name, value in wanted.items() if value is not None}
        try:
            return library.get_token(**found)
        except (raised.NoSuchToken, raised.GeneralError, raised.TokenNotPresent, raised.DeviceRemoved):
            library.reinitialize()  # libraries list their tokens once; nobody else is inside, we hold its lock
            return library.get_token(**found)


def open_root(reference: RootReference, settings: RootSettings) -> Pkcs11Root:
    """Return the root that a PKCS#11 URI names. Loads nothing yet.

    Raises:
        RootError: No such URI, or an unknown credential (Misconfigured).
    """
    name = named(reference, settings)
    assert isinstance(name, Pkcs11Key)
    return Pkcs11Root(name, credential_of(reference, settings, _SETTINGS), settings.deadline_s)


def check_tries(flags: Any) -> None:
    """Let a login pass that cannot lock the token.

    Raises:
        RootError: The next wrong PIN would (CredentialRejected).
    """
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise RootError("CredentialRejected", "one PIN try is left on the token: not used up. Correct the PIN file and "
                        "log in once by the vendor's own tool")  # fmt: skip
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise RootError("CredentialRejected", "the token's user PIN is locked")


def _opened(key: Any, sealed: bytes, aad: bytes) -> bytes:
    """Decrypt on the token; a failure that says nothing (SoftHSM's) is told apart by a round trip of the key's."""
    _usable(key)
    try:
        return bytes(
            key.decrypt(
                sealed[NONCE_BYTES:], mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(sealed[:NONCE_BYTES], aad)
            )
        )
    except (raised.GeneralError, raised.FunctionFailed, raised.DataInvalid, raised.DataLenRange, raised.ArgumentsBad):
        nonce, proof = os.urandom(NONCE_BYTES), os.urandom(16)
        done = key.encrypt(proof, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, aad))
        if bytes(key.decrypt(done, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce, aad))) != proof:
            raise
    raise RootError("WrongContext", "not wrapped by this key for this residence")


def _usable(key: Any) -> None:
    if not (key[Attribute.ENCRYPT] and key[Attribute.DECRYPT]):
        raise RootError("KeyDisabled", f"{_version(key)} may not encrypt and decrypt")


def _gcm(nonce: bytes, aad: bytes) -> GCMParams:
    return GCMParams(nonce, aad, TAG_BITS)


def _version(key: Any) -> str:
    return f"{key[Attribute.LABEL]}#{_hex(key[Attribute.ID])}"


def _hex(key_id: bytes | None) -> str:
    return (key_id or b"").hex()


def _meaning(bad: Exception) -> RootState:
    known = next((code for kind, code in _MEANINGS.items() if isinstance(bad, kind)), None)
    unmapped = _UNMAPPED.search(str(bad)) if type(bad) is raised.PKCS11Error else None
    return known or (_CODES.get(int(unmapped[1], 16)) if unmapped else None) or "Unreachable"
