"""A root in Google Cloud KMS, over gRPC: Encrypt and Decrypt with the context as additional authenticated data.

The SDK's own retries are off (they turn a deadline of 3 s into 43) and its token is fetched here, before the call, so
that a refused credential is not mistaken for an unreachable service. CRC32C goes both ways. A process that has opened a
gRPC channel must not fork: only processes that were exec'd for it load this file (`unseal_helper`).

Settings (`roots.credentials.<name>` in node.toml; a reference without a credential uses the one named `gcp`):
    source            "service-account" (default), "federated" (workload identity) or "instance" (metadata server)
    credentials_file  0600 JSON file: a service account's key, or an external_account whose source is a file
    ca_bundle         path of the CA that private endpoints' certificates come from
Endpoints (`roots.endpoints`): `gcp:<location>` or `gcp` for KMS; `gcp-token`, or `gcp-sts` and, when a service account
is impersonated, `gcp-iam`. What a credential file says of addresses is not followed.
Sources: Cloud KMS API reference (v1), "Verify end-to-end data integrity"; RFC 3720 appendix B (CRC32C).
"""

from __future__ import annotations

import hmac
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import google.auth.exceptions
import grpc
import requests
from google.api_core import exceptions
from google.auth import compute_engine, identity_pool
from google.auth.transport.requests import Request
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from google.oauth2 import service_account

from openkcm.contract.decrees import RootReference
from openkcm.contract.reports import RootState
from openkcm.contract.rootnames import GcpKey
from openkcm.execution.roots.asking import (
    ask,
    context_bytes,
    credential_of,
    endpoint_of,
    framed,
    named,
    secret_file,
    unframed,
    within,
)
from openkcm.execution.roots.base import Canary, RootError, RootInfo, RootSettings, Wrapped, check_canary

__all__ = ["GcpRoot", "crc32c", "open_root"]

_T = TypeVar("_T")
SCOPES: Final = ("https://www.googleapis.com/auth/cloudkms",)
_SETTINGS: Final = frozenset({"source", "credentials_file", "ca_bundle"})
_VERSIONS: Final = "/cryptoKeyVersions/"
_STATE: Final = kms_v1.CryptoKeyVersion.CryptoKeyVersionState

#: gRPC status -> what it means. FAILED_PRECONDITION is not here: the version's state says which it is. Others are
#: Unreachable: keep, alarm, ask again.
_CODES: Final[dict[grpc.StatusCode, RootState]] = {
    grpc.StatusCode.PERMISSION_DENIED: "AccessDenied",
    grpc.StatusCode.NOT_FOUND: "KeyNotFound",
    grpc.StatusCode.INVALID_ARGUMENT: "WrongContext",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Throttled",
    grpc.StatusCode.UNAUTHENTICATED: "CredentialRejected",
    grpc.StatusCode.UNIMPLEMENTED: "Misconfigured",
    grpc.StatusCode.OUT_OF_RANGE: "Misconfigured",
}
#: Reason in the error's details -> what it means, before the status is looked at.
_REASONS: Final[dict[str, RootState]] = {
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": "CredentialRejected",
    "ACCESS_TOKEN_EXPIRED": "CredentialRejected",
    "RATE_LIMIT_EXCEEDED": "Throttled",
}
_KEY_STATES: Final[dict[Any, RootState]] = {
    _STATE.ENABLED: "ok",
    _STATE.DISABLED: "KeyDisabled",
    _STATE.DESTROY_SCHEDULED: "KeyPendingDeletion",
    _STATE.DESTROYED: "KeyNotFound",
    _STATE.PENDING_EXTERNAL_DESTRUCTION: "KeyNotFound",
    _STATE.EXTERNAL_DESTRUCTION_FAILED: "KeyNotFound",
}


class GcpRoot:
    """One symmetric key, whose primary version wraps."""

    def __init__(
        self, name: GcpKey, client: Callable[[], Any], token: Callable[[float], str], deadline_s: float
    ) -> None:
        self._name, self._make, self._token, self._deadline_s = str(name), client, token, deadline_s
        self._kms: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<gcp root {self._name}>"

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap by the primary version; unwrap the answer before anything relies on it."""
        frame, aad = framed(plaintext, context), context_bytes(context)
        request = kms_v1.EncryptRequest(
            name=self._name, plaintext=frame, plaintext_crc32c=crc32c(frame), additional_authenticated_data=aad,
            additional_authenticated_data_crc32c=crc32c(aad),
        )  # fmt: skip
        answer = self._ask("encrypt", request, None)
        ciphertext, version = bytes(answer.ciphertext), str(answer.name)
        self._ours(version)
        if not hmac.compare_digest(self.unwrap(ciphertext, version, context), plaintext):
            raise RootError("WrongContext", "KMS unwraps its own answer to something else")
        return Wrapped(ciphertext=ciphertext, root_version=version)

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Unwrap by the key; the ciphertext itself says by which version."""
        self._ours(root_version)
        aad = context_bytes(context)
        request = kms_v1.DecryptRequest(
            name=self._name, ciphertext=ciphertext, ciphertext_crc32c=crc32c(ciphertext),
            additional_authenticated_data=aad, additional_authenticated_data_crc32c=crc32c(aad),
        )  # fmt: skip
        return unframed(bytes(self._ask("decrypt", request, root_version).plaintext), context)

    def describe(self) -> RootInfo:
        """Name the primary version."""
        try:
            key = self._ask("get_crypto_key", kms_v1.GetCryptoKeyRequest(name=self._name), None)
        except RootError as no:
            if no.code == "AccessDenied":  # the usual role lets us unwrap and not look
                return RootInfo(version=None)
            raise
        if not key.primary.name:
            raise RootError("KeyNotFound", "the key has no primary version, or is none for encryption")
        state = _KEY_STATES.get(key.primary.state, "Unreachable")
        if state != "ok":
            raise RootError(state, f"{key.primary.name} is {key.primary.state.name}")
        return RootInfo(version=str(key.primary.name))

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary, then describe."""
        check_canary(self, canary, context)
        return self.describe()

    # --- KMS ----------------------------------------------------------------------------------------------------------

    def _ours(self, version: str) -> None:
        if not version.startswith(f"{self._name}{_VERSIONS}"):
            raise RootError("WrongContext", f"{version[:200]} is no version of {self._name}")

    def _ask(self, method: str, request: Any, version: str | None) -> Any:
        """Call KMS. `version`: whose state tells what a failed precondition is; None: the primary's."""

        def once(left_s: float) -> Any:
            metadata = (("authorization", f"Bearer {self._token(left_s)}"),)
            try:
                answer = getattr(self._client(), method)(request=request, retry=None, timeout=left_s, metadata=metadata)
                _intact(answer)
                return answer  # noqa: TRY300 -- its checks are part of the call
            except exceptions.GoogleAPICallError as bad:
                raise self._meaning(bad, method, version) from bad

        return ask(once, self._deadline_s)

    def _meaning(self, bad: exceptions.GoogleAPICallError, method: str, version: str | None) -> RootError:
        status, detail = bad.grpc_status_code, f"{method}: {bad.message}"
        code = _REASONS.get(bad.reason or "") or _CODES.get(status, "Unreachable")
        if status is grpc.StatusCode.FAILED_PRECONDITION:
            return self._state(version, detail)
        if code == "WrongContext" and (method != "decrypt" or "crc32c" in bad.message.lower()):
            code = "Unreachable" if "crc32c" in bad.message.lower() else "Misconfigured"
        return RootError(code, detail)

    def _state(self, version: str | None, detail: str) -> RootError:
        """What a failed precondition is: a version that is not enabled, or (in an external key manager) its link."""
        words = detail.rpartition("current state is:")[2].strip(" .")
        try:
            if version is None:
                self.describe()
            else:
                found = self._ask("get_crypto_key_version", kms_v1.GetCryptoKeyVersionRequest(name=version), None)
                words = found.state.name
        except RootError as no:
            if no.code != "AccessDenied":
                return no
        state = next((code for key, code in _KEY_STATES.items() if key.name == words), "Unreachable")
        return RootError("Unreachable" if state == "ok" else state, f"{detail} ({words})")

    def _client(self) -> Any:
        with self._lock:
            if self._kms is None:
                self._kms = self._make()
            return self._kms


def open_root(reference: RootReference, settings: RootSettings) -> GcpRoot:
    """Return the root that a key's resource name means. Connects to nothing yet.

    Raises:
        RootError: No such name, a location or endpoint that node.toml does not allow, or an unknown credential
            (Misconfigured).
    """
    name = named(reference, settings)
    assert isinstance(name, GcpKey)
    credential = credential_of(reference, settings, _SETTINGS)
    if credential.get("source", "service-account") not in _SOURCES:
        raise RootError("Misconfigured", f"source: one of {', '.join(_SOURCES)}")
    endpoint = urllib.parse.urlsplit(endpoint_of(settings, f"gcp:{name.location}", "gcp"))
    if endpoint.scheme != "https" or not endpoint.hostname:
        raise RootError("Misconfigured", "a gcp endpoint is https://host[:port]: roots.endpoints")
    target = f"{endpoint.hostname}:{endpoint.port or 443}"
    token = _Token(lambda: _SOURCES[credential.get("source", "service-account")](credential, settings), credential)
    return GcpRoot(name, lambda: _client(target, credential), token, settings.deadline_s)


class _Token:
    """An access token, fetched when there is none that lasts."""

    def __init__(self, make: Callable[[], Any], credential: Mapping[str, str]) -> None:
        self._make, self._ca = make, credential.get("ca_bundle")
        self._credentials: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<Google access token>"

    def __call__(self, left_s: float) -> str:
        with self._lock:
            if self._credentials is None:
                self._credentials = self._make()
            if not self._credentials.valid:
                within(lambda: self._refresh(left_s), left_s, "the token endpoint")
            return str(self._credentials.token)

    def _refresh(self, left_s: float) -> None:
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no .netrc by the way
            session.verify = self._ca or True
            try:
                self._credentials.refresh(partial(Request(session), timeout=left_s))
            except google.auth.exceptions.TransportError as bad:
                raise RootError("Unreachable", f"token endpoint: {bad}") from bad
            except google.auth.exceptions.GoogleAuthError as bad:
                raise RootError("Unreachable" if bad.retryable else "CredentialRejected", f"token: {bad}") from bad


def _client(target: str, credential: Mapping[str, str]) -> Any:
    ca = Path(credential["ca_bundle"]).read_bytes() if "ca_bundle" in credential else None
    channel = grpc.secure_channel(
        target,
        grpc.ssl_channel_credentials(root_certificates=ca),
        options=[
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.max_reconnect_backoff_ms", 500),
        ],
    )
    return kms_v1.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))


def _service_account(credential: Mapping[str, str], settings: RootSettings) -> Any:
    told = {**_file(credential), "token_uri": endpoint_of(settings, "gcp-token")}
    return _made(lambda: service_account.Credentials.from_service_account_info(told, scopes=SCOPES))


def _federated(credential: Mapping[str, str], settings: RootSettings) -> Any:
    told = _file(credential)
    if set(told.get("credential_source", {})) - {"file", "format"}:
        raise RootError("Misconfigured", "an external_account's source must be a file on the node: credential_source")
    told["token_url"] = endpoint_of(settings, "gcp-sts")
    if "service_account_impersonation_url" in told:
        path = urllib.parse.urlsplit(told["service_account_impersonation_url"]).path
        told["service_account_impersonation_url"] = endpoint_of(settings, "gcp-iam") + path
    return _made(lambda: identity_pool.Credentials.from_info(told, scopes=SCOPES))


def _instance(_credential: Mapping[str, str], _settings: RootSettings) -> Any:
    return compute_engine.Credentials(scopes=SCOPES)


_SOURCES: Final[dict[str, Callable[[Mapping[str, str], RootSettings], Any]]] = {
    "service-account": _service_account, "federated": _federated, "instance": _instance,
}  # fmt: skip


def _file(credential: Mapping[str, str]) -> dict[str, Any]:
    try:
        told = json.loads(secret_file(credential, "credentials_file"))
    except ValueError as bad:  # its text is not repeated: it may hold a key
        raise RootError("CredentialRejected", f"{credential['credentials_file']} is not JSON") from bad
    return dict(told) if isinstance(told, dict) else {}


def _made(make: Callable[[], _T]) -> _T:
    try:
        return make()
    except (ValueError, KeyError, google.auth.exceptions.GoogleAuthError) as bad:
        raise RootError("CredentialRejected", f"credentials_file: {type(bad).__name__}") from bad


def _intact(answer: Any) -> None:
    """Check what was checked there, and the answer's own checksum; a damaged one is asked again."""
    if isinstance(answer, kms_v1.EncryptResponse):
        good = answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c
        good = good and int(answer.ciphertext_crc32c) == crc32c(bytes(answer.ciphertext))
    elif isinstance(answer, kms_v1.DecryptResponse):
        good = int(answer.plaintext_crc32c) == crc32c(bytes(answer.plaintext))
    else:
        return
    if not good:
        raise RootError("Unreachable", "damaged on the way: a CRC32C differs")


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE: Final = tuple(_row(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of a few hundred bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
