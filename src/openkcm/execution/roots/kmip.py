"""A root in a key manager that speaks KMIP 1.4, where it stays: Encrypt and Decrypt there, AES-256-GCM, context as AAD.

The reference is the key's unique identifier, or `name:<name>`: the newest active key of that name wraps, so that a
customer rotates by Re-key (which moves the name) or by making another key of the same name. It cuts by Revoke or
Destroy, or in the server's own access rules. PyKMIP's client makes the messages; the connection is opened here, since
PyKMIP's own checks no server name.

Settings (`roots.credentials.<name>` in node.toml; a reference without a credential uses the one named `kmip`):
    certificate, key  PEM files of our client certificate (EKU clientAuth)
    ca_bundle         the CA that the server's certificate comes from
Endpoint (`roots.endpoints`): `kmip:<name of the credential>` = "host:port".
Source: OASIS KMIP 1.4 specification, sections 4.29, 4.30 (Encrypt, Decrypt) and 11 (Result Reason).
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from kmip.core import attributes, enums, exceptions
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.messages import payloads
from kmip.services.kmip_client import KMIPProxy
from kmip.services.kmip_protocol import KMIPProtocol, RequestLengthMismatch

from openkcm.contract.decrees import RootReference
from openkcm.contract.reports import RootState
from openkcm.contract.rootnames import KmipKey
from openkcm.execution.roots.asking import ask, context_bytes, credential_of, endpoint_of, framed, named, unframed
from openkcm.execution.roots.base import Canary, RootError, RootInfo, RootSettings, Wrapped, check_canary

__all__ = ["KmipRoot", "open_root"]

_T = TypeVar("_T")
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MOST_KEYS: Final = 64  # keys of one name that are looked at
_SETTINGS: Final = frozenset({"certificate", "key", "ca_bundle"})
_REASON: Final = enums.ResultReason

#: Result Reason -> what it means. PermissionDenied is not here: the key's state says whether it is the key's. Others
#: are Unreachable: keep, alarm, ask again.
_MEANINGS: Final[dict[Any, RootState]] = {
    _REASON.ITEM_NOT_FOUND: "KeyNotFound",
    _REASON.OBJECT_NOT_FOUND: "KeyNotFound",
    _REASON.OBJECT_DESTROYED: "KeyNotFound",
    _REASON.KEY_VALUE_NOT_PRESENT: "KeyNotFound",
    _REASON.OBJECT_ARCHIVED: "KeyDisabled",
    _REASON.WRONG_KEY_LIFECYCLE_STATE: "KeyDisabled",
    _REASON.USAGE_LIMIT_EXCEEDED: "KeyDisabled",
    _REASON.NOT_AUTHORISED: "AccessDenied",
    _REASON.CRYPTOGRAPHIC_FAILURE: "WrongContext",
    _REASON.AUTHENTICATION_NOT_SUCCESSFUL: "CredentialRejected",
    _REASON.ATTESTATION_REQUIRED: "CredentialRejected",
    _REASON.ATTESTATION_FAILED: "CredentialRejected",
    _REASON.SERVER_LIMIT_EXCEEDED: "Throttled",
    _REASON.OPERATION_NOT_SUPPORTED: "Misconfigured",
    _REASON.FEATURE_NOT_SUPPORTED: "Misconfigured",
    _REASON.INVALID_FIELD: "Misconfigured",
    _REASON.INVALID_MESSAGE: "Misconfigured",
    _REASON.UNSUPPORTED_PROTOCOL_VERSION: "Misconfigured",
}
_STATES: Final[dict[Any, RootState]] = {
    enums.State.ACTIVE: "ok",
    enums.State.PRE_ACTIVE: "KeyDisabled",
    enums.State.DEACTIVATED: "KeyDisabled",
    enums.State.COMPROMISED: "KeyDisabled",
    enums.State.DESTROYED: "KeyNotFound",
    enums.State.DESTROYED_COMPROMISED: "KeyNotFound",
}


class KmipRoot:
    """One key, or the newest of a name."""

    def __init__(
        self, name: KmipKey, server: tuple[str, int], credential: Mapping[str, str], deadline_s: float
    ) -> None:
        self._name, self._server, self._credential, self._deadline_s = name, server, credential, deadline_s

    def __repr__(self) -> str:
        return f"<kmip root {self._name.uid or self._name.name} at {self._server[0]}:{self._server[1]}>"

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap by the current key; unwrap the answer before anything relies on it."""
        frame, aad = framed(plaintext, context), context_bytes(context)

        def work(proxy: KMIPProxy) -> Wrapped:
            uid = self._current(proxy)
            sealed = self._encrypt(proxy, uid, frame, aad)
            if self._decrypted(proxy, uid, sealed, aad) != frame:
                raise RootError("WrongContext", "the server unwraps its own answer to something else")
            return Wrapped(ciphertext=sealed, root_version=uid)

        return self._ask(work)

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Unwrap by the key that wrapped."""
        if self._name.uid is not None and root_version != self._name.uid:
            raise RootError("WrongContext", f"wrapped by {root_version[:128]}, which is not {self._name.uid}")
        aad = context_bytes(context)
        return unframed(self._ask(lambda proxy: self._decrypted(proxy, root_version, ciphertext, aad)), context)

    def describe(self) -> RootInfo:
        """Name the current key."""
        return RootInfo(version=self._ask(self._current))

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary, then describe."""
        check_canary(self, canary, context)
        return self.describe()

    # --- the server ---------------------------------------------------------------------------------------------------

    def _current(self, proxy: KMIPProxy) -> str:
        if self._name.uid is not None:
            uids = [self._name.uid]
        else:
            request = payloads.LocateRequestPayload(maximum_items=MOST_KEYS, attributes=_named(self._name.name))
            uids = list(self._send(proxy, enums.Operation.LOCATE, request).unique_identifiers)
        known = [(*self._state(proxy, uid), uid) for uid in uids]
        active = [(born, uid) for state, born, uid in known if state == "ok"]
        if active:
            return max(active)[1]
        code = next((state for state, _, _ in known), "KeyNotFound")
        raise RootError(code, f"{len(known)} keys of that name or identifier, none of them active")

    def _state(self, proxy: KMIPProxy, uid: str) -> tuple[RootState, int]:
        """Return what a key's state means, and when it was made (seconds)."""
        request = payloads.GetAttributesRequestPayload(uid, ["State", "Initial Date"])
        found = {
            str(one.attribute_name.value): one.attribute_value.value
            for one in self._send(proxy, enums.Operation.GET_ATTRIBUTES, request).attributes
        }
        return _STATES.get(found.get("State"), "Unreachable"), int(found.get("Initial Date", 0))

    def _decrypted(self, proxy: KMIPProxy, uid: str, sealed: bytes, aad: bytes) -> bytes:
        if len(sealed) <= NONCE_BYTES + TAG_BYTES:
            raise RootError("WrongContext", f"{len(sealed)} bytes are no wrapped KEK")
        try:
            return self._decrypt(proxy, uid, sealed, aad)
        except RootError as no:
            if no.code != "Unreachable":
                raise
            # A general failure says nothing. A key that does its work shows that it is our ciphertext that is wrong.
            proof = os.urandom(TAG_BYTES)
            if self._decrypt(proxy, uid, self._encrypt(proxy, uid, proof, aad), aad) != proof:
                raise
            raise RootError("WrongContext", "not wrapped by this key for this residence") from no

    def _encrypt(self, proxy: KMIPProxy, uid: str, plain: bytes, aad: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        request = payloads.EncryptRequestPayload(uid, _gcm(), plain, nonce, aad)
        answer = self._send(proxy, enums.Operation.ENCRYPT, request)
        return nonce + bytes(answer.data or b"") + bytes(answer.auth_tag or b"")

    def _decrypt(self, proxy: KMIPProxy, uid: str, sealed: bytes, aad: bytes) -> bytes:
        nonce, data, tag = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:-TAG_BYTES], sealed[-TAG_BYTES:]
        request = payloads.DecryptRequestPayload(uid, _gcm(), data, nonce, aad, tag)
        return bytes(self._send(proxy, enums.Operation.DECRYPT, request).data or b"")

    def _send(self, proxy: KMIPProxy, operation: Any, request: Any) -> Any:
        try:
            return proxy.send_request_payload(operation, request)
        except exceptions.OperationFailure as no:
            detail = f"{operation.name}: {no.reason.name}: {no.args[-1] if no.args else ''}"
            code = _MEANINGS.get(no.reason, "Unreachable")
            if no.reason is _REASON.PERMISSION_DENIED:
                code = "AccessDenied"
                if operation is not enums.Operation.GET_ATTRIBUTES and getattr(request, "unique_identifier", None):
                    state, _ = self._state(proxy, request.unique_identifier)  # this one's refusal is the answer then
                    code = "AccessDenied" if state == "ok" else state
            raise RootError(code, detail) from no

    def _ask(self, work: Callable[[KMIPProxy], _T]) -> _T:
        def once(left_s: float) -> _T:
            proxy = _Proxy(self._server, self._credential, left_s)
            try:
                proxy.open()
                return work(proxy)
            except ssl.SSLCertVerificationError as bad:
                raise RootError("Misconfigured", f"the server's certificate: {bad.verify_message}") from bad
            except ssl.SSLError as bad:
                ours = "ALERT" in (bad.reason or "")  # its word on our certificate
                raise RootError("CredentialRejected" if ours else "Unreachable", f"TLS: {bad.reason}") from bad
            except (OSError, EOFError, RequestLengthMismatch) as bad:
                raise RootError("Unreachable", f"{type(bad).__name__}: {bad}") from bad
            except exceptions.KmipError as bad:
                raise RootError("Unreachable", f"{type(bad).__name__}: {bad}") from bad
            finally:
                proxy.close()

        return ask(once, self._deadline_s)


class _Proxy(KMIPProxy):  # type: ignore[misc]  # PyKMIP has no types
    """PyKMIP's client on a connection of ours: TLS 1.2 or later, the server's name checked, a deadline."""

    def __init__(self, server: tuple[str, int], credential: Mapping[str, str], timeout_s: float) -> None:
        super().__init__(
            host=server[0], port=server[1], certfile=credential["certificate"], keyfile=credential["key"],
            ca_certs=credential["ca_bundle"], kmip_version=enums.KMIPVersion.KMIP_1_4, config_file=os.devnull,
        )  # fmt: skip
        self._timeout_s = timeout_s

    def open(self) -> None:
        """Connect."""
        context = ssl.create_default_context(cafile=self.ca_certs)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certfile, self.keyfile)
        raw = socket.create_connection((self.host, self.port), self._timeout_s)
        try:
            self.socket = context.wrap_socket(raw, server_hostname=self.host)
        except BaseException:
            raw.close()
            raise
        self.protocol = KMIPProtocol(self.socket)

    def close(self) -> None:
        """Hang up, also where the peer did so first: PyKMIP's own would leave the socket open then."""
        connection = getattr(self, "socket", None)
        if connection is not None:
            connection.close()


def open_root(reference: RootReference, settings: RootSettings) -> KmipRoot:
    """Return the root that a KMIP identifier or name means. Connects to nothing yet.

    Raises:
        RootError: No such reference, no endpoint, or an unknown or incomplete credential (Misconfigured).
    """
    name = named(reference, settings)
    assert isinstance(name, KmipKey)
    credential = credential_of(reference, settings, _SETTINGS)
    if missing := _SETTINGS - credential.keys():
        raise RootError("Misconfigured", f"roots.credentials: kmip needs {', '.join(sorted(missing))}")
    host, _, port = endpoint_of(settings, f"kmip:{reference.credential or 'kmip'}").rpartition(":")
    if not host or not port.isdigit():
        raise RootError("Misconfigured", "a kmip endpoint is host:port: roots.endpoints")
    return KmipRoot(name, (host.strip("[]"), int(port)), credential, settings.deadline_s)


def warm() -> None:
    """Keep PyKMIP quiet: at DEBUG it logs whole messages."""
    logging.getLogger("kmip").setLevel(logging.WARNING)


def _gcm() -> Any:
    return attributes.CryptographicParameters(
        block_cipher_mode=enums.BlockCipherMode.GCM,
        cryptographic_algorithm=enums.CryptographicAlgorithm.AES,
        tag_length=TAG_BYTES,
    )


def _named(name: str | None) -> list[Any]:
    value = attributes.Name.create(name, enums.NameType.UNINTERPRETED_TEXT_STRING)
    make = AttributeFactory().create_attribute
    return [
        make(enums.AttributeType.NAME, value),
        make(enums.AttributeType.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY),
    ]
