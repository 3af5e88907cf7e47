"""A root in AWS KMS. Runs in unsealing processes only; connects to nothing but the endpoints that node.toml names.

Ciphertexts name no key to us: every Decrypt says which key it asks, and an
answer by another one is refused. Errors are matched by their code strings. Sources: the AWS KMS API reference (Encrypt,
Decrypt, DescribeKey, "Key states of AWS KMS keys").

Settings (`roots.credentials.<name>` in node.toml; a reference without a credential uses the one named `aws`):
    source             "profile" (default), or "instance": the SDK's own chain, instance metadata included
    profile            profile in the shared credentials file; `default` when not given
    credentials_file   path of that file
    role_arn           role to assume, with `external_id` (ours, told to the customer) and `session_name`
    ca_bundle          path of the CA that a private endpoint's certificate comes from
Endpoints (`roots.endpoints`): `aws:<cloud region>` for KMS, `aws-sts:<cloud region>` when a role is assumed.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import boto3
import botocore.exceptions
import botocore.session
from botocore.config import Config

from openkcm.contract.decrees import RootReference
from openkcm.contract.reports import RootState
from openkcm.contract.rootnames import AwsKey, parse_root
from openkcm.execution.roots.asking import ask, credential_of, endpoint_of, framed, named, unframed
from openkcm.execution.roots.base import Canary, RootError, RootInfo, RootSettings, Wrapped, check_canary

__all__ = ["AwsRoot", "open_root", "warm"]

_T = TypeVar("_T")

#: Error code -> what it means. `KMSInvalidStateException` is not here: DescribeKey says which state it is.
_CODES: Final[dict[str, RootState]] = {
    "AccessDeniedException": "AccessDenied",
    "AccessDenied": "AccessDenied",
    "DisabledException": "KeyDisabled",
    "NotFoundException": "KeyNotFound",
    "InvalidCiphertextException": "WrongContext",
    "IncorrectKeyException": "WrongContext",
    "ThrottlingException": "Throttled",
    "Throttling": "Throttled",
    "RequestLimitExceeded": "Throttled",
    "TooManyRequestsException": "Throttled",
    "DependencyTimeoutException": "Unreachable",
    "InternalFailure": "Unreachable",
    "InternalServerError": "Unreachable",
    "KMSInternalException": "Unreachable",
    "KeyUnavailableException": "Unreachable",
    "ServiceUnavailable": "Unreachable",
    "ServiceUnavailableException": "Unreachable",
    "CloudHsmClusterInvalidConfigurationException": "Unreachable",
    "CustomKeyStoreInvalidStateException": "Unreachable",
    "ExpiredToken": "CredentialRejected",
    "ExpiredTokenException": "CredentialRejected",
    "IncompleteSignature": "CredentialRejected",
    "InvalidClientTokenId": "CredentialRejected",
    "InvalidSignatureException": "CredentialRejected",
    "InvalidToken": "CredentialRejected",
    "MissingAuthenticationToken": "CredentialRejected",
    "MissingAuthenticationTokenException": "CredentialRejected",
    "RequestExpired": "CredentialRejected",
    "SignatureDoesNotMatch": "CredentialRejected",
    "UnrecognizedClientException": "CredentialRejected",
}
#: KeyState as DescribeKey gives it -> what it means. An unknown one is Unreachable: keep, alarm, ask again.
_KEY_STATES: Final[dict[str, RootState]] = {
    "Enabled": "ok",
    "Disabled": "KeyDisabled",
    "PendingDeletion": "KeyPendingDeletion",
    "PendingReplicaDeletion": "KeyPendingDeletion",
    "PendingImport": "KeyNotFound",  # the customer took its imported material away
    "Creating": "Unreachable",
    "Updating": "Unreachable",
    "Unavailable": "Unreachable",
}
_SETTINGS: Final = frozenset(
    {"source", "profile", "credentials_file", "role_arn", "external_id", "session_name", "ca_bundle"}
)
_LOADER: list[Any] = []  # botocore's parsed service models, filled by `warm` and inherited by forked helpers


class AwsRoot:
    """One key, or one alias, in AWS KMS."""

    def __init__(self, arn: AwsKey, client: Callable[[], Any], deadline_s: float) -> None:
        self._arn, self._make, self._deadline_s = arn, client, deadline_s
        self._kms: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<aws root {self._arn}>"

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap by the key that the ARN means now; unwrap the answer before anything relies on it."""
        frame = framed(plaintext, context)
        version = self._described()
        key = _key_of(version)
        answer = self._ask(lambda kms: kms.encrypt(KeyId=key, Plaintext=frame, EncryptionContext=dict(context)), key)
        self._answered_by(answer, key)
        ciphertext = bytes(answer["CiphertextBlob"])
        if not hmac.compare_digest(self.unwrap(ciphertext, version, context), plaintext):
            raise RootError("WrongContext", "KMS unwraps its own answer to something else")
        return Wrapped(ciphertext=ciphertext, root_version=version)

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Unwrap by the key that wrapped, which an alias may have left since."""
        key = _key_of(root_version)
        if not _parse(key).same_place(self._arn) or (not self._arn.is_alias and key != str(self._arn)):
            raise RootError("WrongContext", f"wrapped by {key}, which {self._arn} cannot mean")
        answer = self._ask(
            lambda kms: kms.decrypt(KeyId=key, CiphertextBlob=ciphertext, EncryptionContext=dict(context)), key
        )
        self._answered_by(answer, key)
        return unframed(bytes(answer["Plaintext"]), context)

    def describe(self) -> RootInfo:
        """Name the key (and its material, where KMS names that) behind the ARN."""
        try:
            return RootInfo(version=self._described())
        except RootError as no:
            if no.code == "AccessDenied":  # a customer may let us unwrap and not look
                return RootInfo(version=None)
            raise

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary, then describe: an alias moved to a disabled key is a cut as well."""
        check_canary(self, canary, context)
        return self.describe()

    # --- KMS ----------------------------------------------------------------------------------------------------------

    def _described(self) -> str:
        metadata = self._metadata(str(self._arn))
        state = _KEY_STATES.get(metadata["KeyState"], "Unreachable")
        if state != "ok":
            raise RootError(state, f"{metadata['Arn']} is {metadata['KeyState']}")
        found = _parse(metadata["Arn"])
        if not found.same_place(self._arn) or found.is_alias or (not self._arn.is_alias and found != self._arn):
            raise RootError("Misconfigured", f"{self._arn} is answered as {found}")
        material = metadata.get("CurrentKeyMaterialId")
        return f"{found}#{material[:64]}" if material else str(found)

    def _metadata(self, key: str) -> dict[str, Any]:
        answer = self._ask(lambda kms: kms.describe_key(KeyId=key), None)
        metadata: dict[str, Any] = answer["KeyMetadata"]
        return metadata

    def _ask(self, call: Callable[[Any], _T], key: str | None) -> _T:
        """Call KMS until it answers, retrying what may pass, within the deadline. `key`: whom to describe on doubt."""

        def once(_left_s: float) -> _T:
            found = self._tried(call, key)
            if isinstance(found, RootError):
                raise found
            return found

        return ask(once, self._deadline_s)

    def _tried(self, call: Callable[[Any], _T], key: str | None) -> _T | RootError:
        try:
            return call(self._client())
        except botocore.exceptions.ClientError as bad:
            return self._meaning(bad, key)
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.CredentialRetrievalError,
                botocore.exceptions.PartialCredentialsError, botocore.exceptions.ProfileNotFound) as bad:  # fmt: skip
            return RootError("CredentialRejected", str(bad))
        except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as bad:
            return RootError("Unreachable", f"{type(bad).__name__}: {bad}")
        except botocore.exceptions.BotoCoreError as bad:
            return RootError("Misconfigured", f"{type(bad).__name__}: {bad}")

    def _meaning(self, bad: botocore.exceptions.ClientError, key: str | None) -> RootError:
        error = bad.response.get("Error", {})
        code, message = error.get("Code", ""), error.get("Message", "")
        status = bad.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        detail = f"{bad.operation_name}: {code}: {message}"
        if bad.operation_name == "AssumeRole":  # no word of the customer's about its key
            throttled = _CODES.get(code) == "Throttled"
            return RootError("Throttled" if throttled else "CredentialRejected", detail)
        if code == "KMSInvalidStateException" and key is not None:
            described = self._tried(lambda kms: kms.describe_key(KeyId=key), None)
            if isinstance(described, RootError):
                return described
            metadata: Any = described["KeyMetadata"]
            state = _KEY_STATES.get(metadata["KeyState"], "Unreachable")
            return RootError("Unreachable" if state == "ok" else state, f"{detail} ({metadata['KeyState']})")
        return RootError(_CODES.get(code) or ("Unreachable" if status >= 500 else "Misconfigured"), detail)

    def _answered_by(self, answer: Mapping[str, Any], key: str) -> None:
        if answer.get("KeyId") != key:
            raise RootError("WrongContext", f"asked {key}, answered by {str(answer.get('KeyId'))[:200]}")

    def _client(self) -> Any:
        with self._lock:
            if self._kms is None:
                self._kms = self._make()
            return self._kms


def open_root(reference: RootReference, settings: RootSettings) -> AwsRoot:
    """Return the root that a key's or alias's ARN names. Connects to nothing yet.

    Raises:
        RootError: Not an ARN of KMS, a cloud region or endpoint that node.toml does not allow, or an unknown credential
            (Misconfigured).
    """
    arn = named(reference, settings)
    assert isinstance(arn, AwsKey)
    credential = credential_of(reference, settings, _SETTINGS)
    endpoint = endpoint_of(settings, f"aws:{arn.region}")
    sts = endpoint_of(settings, f"aws-sts:{arn.region}") if "role_arn" in credential else None
    config = Config(
        region_name=arn.region,
        connect_timeout=settings.deadline_s / 2,
        read_timeout=settings.deadline_s,
        retries={"total_max_attempts": 1},  # ours know the deadline
        user_agent_extra="openkcm",
        parameter_validation=False,
    )
    return AwsRoot(arn, lambda: _kms_client(arn.region, credential, endpoint, sts, config), settings.deadline_s)


def warm() -> None:
    """Load the SDK's service models once, so that helpers forked afterwards start in milliseconds. No credential."""
    session = botocore.session.Session()
    for service in ("kms", "sts"):
        session.create_client(
            service, region_name="us-east-1", endpoint_url="http://127.0.0.1:9",
            aws_access_key_id="none", aws_secret_access_key="none",
        )  # fmt: skip
    _LOADER[:] = [session.get_component("data_loader")]


def _kms_client(region: str, credential: Mapping[str, str], endpoint: str, sts: str | None, config: Config) -> Any:
    core = botocore.session.Session()
    if _LOADER:
        core.register_component("data_loader", _LOADER[0])
    if "credentials_file" in credential:
        core.set_config_variable("credentials_file", credential["credentials_file"])
    if credential.get("source", "profile") == "profile":
        core.set_config_variable("profile", credential.get("profile", "default"))
        resolver = core.get_component("credential_provider")
        for provider in ("env", "assume-role", "assume-role-with-web-identity", "container-role", "iam-role", "login"):
            resolver.remove(provider)
    session = boto3.Session(botocore_session=core, region_name=region)
    verify = credential.get("ca_bundle")
    keys: dict[str, str] = {}
    if sts is not None:
        extra = {"ExternalId": credential["external_id"]} if "external_id" in credential else {}
        answer = session.client("sts", endpoint_url=sts, config=config, verify=verify).assume_role(
            RoleArn=credential["role_arn"], RoleSessionName=credential.get("session_name", "openkcm"), **extra
        )
        given = answer["Credentials"]
        keys = {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }
    return session.client("kms", endpoint_url=endpoint, config=config, verify=verify, **keys)


def _parse(arn: str) -> AwsKey:
    found = parse_root(RootReference(provider="aws", ref=arn))
    assert isinstance(found, AwsKey)
    return found


def _key_of(root_version: str) -> str:
    return root_version.partition("#")[0]
