"""A root in Azure Key Vault or a Managed HSM: wrapKey and unwrapKey by one version of a key.

Neither binds a context, so ours does (`asking.framed`). The SDK wraps by itself where it thinks it can: with an RSA
key's public half, also when the key is disabled, and for an oct-HSM key and A256KW with a random key of its own making,
since the vault gives none (azure-keyvault-keys 4.11). Hence the HSM's RFC 5649 mechanism for those, every wrap is
unwrapped by the vault before it is relied on, and no probe ever wraps. The SDK's retries are off. A vault that
node.toml does not place (`roots.vaults`) is not asked.

Settings (`roots.credentials.<name>` in node.toml; a reference without a credential uses the one named `azure`):
    source            "workload" (default: federated token file), "certificate", "secret" or "managed" (identity)
    tenant_id, client_id            the directory that the vault trusts, and our application in it
    token_file, certificate_file, secret_file   0600; the one that the source reads
    ca_bundle, verify_challenge     for a test double only: its CA, and "no" where its name is no vault's
Endpoints (`roots.endpoints`): `azure-login` for tokens; `azure:<vault host>` where it is not the host itself.
Source: Azure Key Vault REST API reference (2025-07-01), "Common HTTP status codes".
"""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from azure.core import exceptions
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
)
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

from openkcm.contract.decrees import RootReference
from openkcm.contract.reports import RootState
from openkcm.contract.rootnames import AzureKey, parse_root
from openkcm.execution.roots.asking import (
    ask,
    credential_of,
    endpoint_of,
    framed,
    named,
    secret_file,
    unframed,
    within,
)
from openkcm.execution.roots.base import Canary, RootError, RootInfo, RootSettings, Wrapped, check_canary

__all__ = ["AzureRoot", "open_root"]

_T = TypeVar("_T")
SALT_BYTES: Final = 16
_SETTINGS: Final = frozenset(
    {"source", "tenant_id", "client_id", "token_file", "certificate_file", "secret_file", "ca_bundle",
     "verify_challenge"}
)  # fmt: skip
#: First byte of what we store -> algorithm; by the key's type.
_ALGORITHMS: Final = {1: KeyWrapAlgorithm.rsa_oaep_256, 2: KeyWrapAlgorithm.ckm_aes_key_wrap_pad}
_BY_TYPE: Final = {"RSA": 1, "RSA-HSM": 1, "oct": 2, "oct-HSM": 2}

#: HTTP status -> what it means. Others are Misconfigured, or Unreachable from 500 on.
_STATUS: Final[dict[int, RootState]] = {
    401: "CredentialRejected",
    403: "AccessDenied",
    404: "KeyNotFound",
    408: "Unreachable",
    429: "Throttled",
}
#: The error's inner code -> what it means, before the status is looked at.
_INNER: Final[dict[str, RootState]] = {
    "KeyDisabled": "KeyDisabled",
    "KeyNotYetValid": "KeyDisabled",
    "KeyExpired": "KeyDisabled",
    "SecretDisabled": "KeyDisabled",
    "ObjectIsBeingDeleted": "KeyPendingDeletion",
    "ObjectIsDeletedButRecoverable": "KeyPendingDeletion",
}


class AzureRoot:
    """One key of a vault; a reference without a version follows the current one."""

    def __init__(
        self, name: AzureKey, url: str, credential: Callable[[], Any], options: Mapping[str, Any], deadline_s: float
    ) -> None:
        self._name, self._url, self._make, self._deadline_s = name, url, credential, deadline_s
        self._options = {**options, "retry_total": 0, "connection_timeout": deadline_s, "read_timeout": deadline_s}
        self._credential: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<azure root {self._name}>"

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap by the current version; have the vault unwrap it before anything relies on it."""
        salted = os.urandom(SALT_BYTES) + framed(plaintext, context)  # RFC 5649 alone would wrap equals to equals
        key = self._key()
        version, kind = self._version(key), _BY_TYPE.get(str(getattr(key.key_type, "value", key.key_type)))
        if kind is None:
            raise RootError("Misconfigured", f"a key of type {key.key_type} cannot wrap; RSA or oct-HSM can")

        def work(credential: Any) -> bytes:
            crypto = CryptographyClient(key, credential, **self._options)
            return bytes(crypto.wrap_key(_ALGORITHMS[kind], salted).encrypted_key)

        ciphertext = bytes([kind]) + self._ask(work, wrong="Misconfigured")
        if not hmac.compare_digest(self.unwrap(ciphertext, version, context), plaintext):
            raise RootError("WrongContext", "the vault unwraps its own answer to something else")
        return Wrapped(ciphertext=ciphertext, root_version=version)

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Unwrap by the version that wrapped."""
        version = parse_root(RootReference(provider="azure", ref=root_version))
        assert isinstance(version, AzureKey)
        if version[:2] != self._name[:2] or not version.version or self._name.version not in {None, version.version}:
            raise RootError("WrongContext", f"wrapped by {root_version[:200]}, which {self._name} cannot mean")
        algorithm = _ALGORITHMS.get(ciphertext[0] if ciphertext else 0)
        if algorithm is None:
            raise RootError("WrongContext", "no wrapped KEK of a vault's")
        key = f"{self._url}/keys/{version.name}/{version.version}"

        def work(credential: Any) -> bytes:
            crypto = CryptographyClient(key, credential, **self._options)
            return bytes(crypto.unwrap_key(algorithm, ciphertext[1:]).key)

        return unframed(self._ask(work, wrong="WrongContext")[SALT_BYTES:], context)

    def describe(self) -> RootInfo:
        """Name the current version."""
        try:
            return RootInfo(version=self._version(self._key()))
        except RootError as no:
            if no.code == "AccessDenied":  # a customer may let us unwrap and not look
                return RootInfo(version=None)
            raise

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary, then describe."""
        check_canary(self, canary, context)
        return self.describe()

    # --- the vault ----------------------------------------------------------------------------------------------------

    def _key(self) -> Any:
        return self._ask(
            lambda credential: self._keys(credential).get_key(self._name.name, self._name.version),
            wrong="Misconfigured",
        )

    def _version(self, key: Any) -> str:
        if key.name != self._name.name or not key.properties.version:
            raise RootError("Misconfigured", f"{self._name} is answered as {str(key.id)[:200]}")
        if key.properties.enabled is False:
            raise RootError("KeyDisabled", f"{key.id} is disabled")
        return str(self._name._replace(version=key.properties.version))

    def _keys(self, credential: Any) -> KeyClient:
        return KeyClient(self._url, credential, **self._options)

    def _ask(self, work: Callable[[Any], _T], *, wrong: RootState) -> _T:
        """Ask the vault. `wrong`: what a bad request means, which is the ciphertext's fault or ours."""

        def tried(credential: Any) -> _T:
            try:
                return work(credential)
            except (exceptions.ClientAuthenticationError, CredentialUnavailableError) as bad:
                raise _unsigned(bad) from bad
            except exceptions.HttpResponseError as bad:
                raise self._meaning(bad, wrong, credential) from bad
            except (exceptions.ServiceRequestError, exceptions.ServiceResponseError) as bad:
                raise RootError("Unreachable", f"{type(bad).__name__}: {bad.message}") from bad
            except ValueError as bad:  # a challenge that names another service than a vault
                raise RootError("Misconfigured", str(bad)) from bad

        def once(left_s: float) -> _T:
            credential = self._signed_in()
            return within(lambda: tried(credential), left_s, self._name.host)

        return ask(once, self._deadline_s)

    def _meaning(self, bad: exceptions.HttpResponseError, wrong: RootState, credential: Any) -> RootError:
        inner = getattr(bad.error, "innererror", None) or {}
        status, detail = bad.status_code or 0, f"HTTP {bad.status_code}: {bad.message}"
        code = _INNER.get(str(inner.get("code"))) or _STATUS.get(status)
        if code == "KeyNotFound":
            try:  # deleted keys are kept for the vault's retention: the customer may still recover this one
                self._keys(credential).get_deleted_key(self._name.name)
            except exceptions.AzureError:
                return RootError(code, detail)
            return RootError("KeyPendingDeletion", detail)
        return RootError(code or ("Unreachable" if status >= 500 else wrong), detail)

    def _signed_in(self) -> Any:
        with self._lock:
            if self._credential is None:
                self._credential = self._make()
            return self._credential


def open_root(reference: RootReference, settings: RootSettings) -> AzureRoot:
    """Return the root that a key's identifier means. Connects to nothing yet.

    Raises:
        RootError: No such identifier, a vault that node.toml does not allow, or an unknown or incomplete credential
            (Misconfigured).
    """
    name = named(reference, settings)
    assert isinstance(name, AzureKey)
    credential = credential_of(reference, settings, _SETTINGS)
    make = _SOURCES.get(credential.get("source", "workload"))
    if make is None:
        raise RootError("Misconfigured", f"source: one of {', '.join(_SOURCES)}")
    url = settings.policy.endpoints.get(f"azure:{name.host}", f"https://{name.host}").rstrip("/")
    login = endpoint_of(settings, "azure-login")
    verify = {"connection_verify": credential["ca_bundle"]} if "ca_bundle" in credential else {}
    options = {**verify, "verify_challenge_resource": credential.get("verify_challenge") != "no"}
    missing = {"tenant_id", "client_id"} - credential.keys()
    if missing and make is not _managed:
        raise RootError("Misconfigured", f"roots.credentials: azure needs {', '.join(sorted(missing))}")
    signing = {"authority": login, "disable_instance_discovery": True, "retry_total": 0, **verify}
    return AzureRoot(name, url, lambda: _made(make, credential, signing), options, settings.deadline_s)


def _unsigned(bad: exceptions.AzureError) -> RootError:
    """What a failed sign-in is: azure-identity says the same of a refusal and of an endpoint that is away."""
    cause, status = bad.__cause__, getattr(bad, "status_code", None) or 0
    away = isinstance(cause, (exceptions.ServiceRequestError, exceptions.ServiceResponseError)) or status >= 500
    code = "Throttled" if status == 429 else "Unreachable" if away else "CredentialRejected"
    return RootError(code, f"sign-in: {bad.message}")


def _workload(credential: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    def token() -> str:
        return secret_file(credential, "token_file").decode()

    return ClientAssertionCredential(credential["tenant_id"], credential["client_id"], token, **options)


def _certificate(credential: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    pem = secret_file(credential, "certificate_file")
    return CertificateCredential(credential["tenant_id"], credential["client_id"], certificate_data=pem, **options)


def _secret(credential: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    secret = secret_file(credential, "secret_file").decode()
    return ClientSecretCredential(credential["tenant_id"], credential["client_id"], secret, **options)


def _managed(credential: Mapping[str, str], _options: Mapping[str, Any]) -> Any:
    return ManagedIdentityCredential(client_id=credential.get("client_id"), retry_total=0)


_SOURCES: Final[dict[str, Callable[[Mapping[str, str], Mapping[str, Any]], Any]]] = {
    "workload": _workload, "certificate": _certificate, "secret": _secret, "managed": _managed,
}  # fmt: skip


def _made(make: Callable[[Mapping[str, str], Mapping[str, Any]], Any], credential: Mapping[str, str],
          options: Mapping[str, Any]) -> Any:  # fmt: skip
    try:
        return make(credential, options)
    except (ValueError, UnicodeDecodeError) as bad:  # its text is not repeated: it may hold a secret
        raise RootError("CredentialRejected", f"{credential.get('source', 'workload')}: {type(bad).__name__}") from bad
