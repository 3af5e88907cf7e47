"""Google Cloud KMS on the wire: gRPC over TLS on the package's own messages, real AES-GCM, a token endpoint, faults.

What it answers follows the API reference and recorded answers: a version that is not enabled is FAILED_PRECONDITION, a
ciphertext that does not fit INVALID_ARGUMENT, a key nobody may see PERMISSION_DENIED.
"""

from __future__ import annotations

import json
import os
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1 import types

from openkcm.cli.pki import authority
from openkcm.execution.roots.gcp import crc32c
from simulators.https import Answer, Asked, Https

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever address a private endpoint has
SERVICE = "google.cloud.kms.v1.KeyManagementService"
STATE = types.CryptoKeyVersion.CryptoKeyVersionState
METHODS = {
    "Encrypt": (types.EncryptRequest, types.EncryptResponse, "_encrypt"),
    "Decrypt": (types.DecryptRequest, types.DecryptResponse, "_decrypt"),
    "GetCryptoKey": (types.GetCryptoKeyRequest, types.CryptoKey, "_get_key"),
    "GetCryptoKeyVersion": (types.GetCryptoKeyVersionRequest, types.CryptoKeyVersion, "_get_version"),
    "GetImportJob": (types.GetImportJobRequest, types.ImportJob, "_get_import_job"),
    "ImportCryptoKeyVersion": (types.ImportCryptoKeyVersionRequest, types.CryptoKeyVersion, "_import_version"),
    "UpdateCryptoKeyPrimaryVersion": (types.UpdateCryptoKeyPrimaryVersionRequest, types.CryptoKey, "_set_primary"),
}


def service_account_file(
    path: Path, signer: rsa.RSAPrivateKey | None = None, token_uri: str = "https://127.0.0.1:9/never-asked"
) -> Path:
    """Write a service account's key file; without a signer, one that nobody knows."""
    key = signer or rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = {
        "type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem.decode(),
        "client_email": "node@openkcm.iam.gserviceaccount.com", "client_id": "1", "token_uri": token_uri,
    }  # fmt: skip
    path.touch(0o600)
    path.write_text(json.dumps(told))
    return path


class Refused(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Key:
    """Versions of material; the last enabled one is primary."""

    def __init__(self) -> None:
        self.material = [os.urandom(32)]
        self.states = [STATE.ENABLED]
        self.readers: set[str] = {"get", "use"}  # what nodes may


class GoogleKms:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = authority(directory)
        self.ca = self.pki.ca
        self.keys: dict[str, Key] = {}
        self.tokens: set[str] = set()
        self.calls: list[str] = []
        self.faults: list[grpc.StatusCode] = []
        self.always: grpc.StatusCode | None = None
        self.delay_s = 0.0
        self.damage: str | None = None  # a field whose checksum is spoilt once
        self.spoil_every_answer = False
        self.unseals = 0  # KEKs given back
        self.import_job: tuple[str, Any] | None = None  # name, private key
        self.pending: dict[str, bytes] = {}  # imported, and not primary yet
        self.calls_to_decrypt = 0
        self.signer = rsa.generate_private_key(65537, 2048)
        self.sts_subject = "federated-subject-token"
        self.token = Https(self.pki, self._token)
        certificate, key = self.pki.issue("google-kms")
        self._server = grpc.server(ThreadPoolExecutor(8, "google-kms"))
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(name), request_deserializer=asks.deserialize, response_serializer=says.serialize
            )
            for name, (asks, says, _) in METHODS.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self._server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        )
        self._server.start()
        self.url = f"https://localhost:{self.port}"

    def stop(self) -> None:
        self._server.stop(None).wait()
        self.token.stop()

    def service_account(self, path: Path, *, known: bool = True) -> Path:
        """Write a service account's key file; one that is not known gets no token."""
        return service_account_file(path, self.signer if known else None)

    def external_account(self, path: Path, subject: str) -> Path:
        """Write a workload identity configuration whose subject token lies in a file."""
        (source := path.with_suffix(".token")).write_text(subject)
        told = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": str(source)},
        }  # fmt: skip
        path.touch(0o600)
        path.write_text(json.dumps(told))
        return path

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _token(self, asked: Asked) -> Answer:
        form = dict(urllib.parse.parse_qsl(asked.body.decode()))
        if form.get("grant_type", "").endswith("jwt-bearer"):
            try:
                jwt.decode(form["assertion"], self.signer.public_key(), ["RS256"], audience=AUDIENCE)
            except jwt.PyJWTError as bad:
                return Answer(400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {bad}"})
        elif form.get("subject_token") != self.sts_subject:
            return Answer(400, {"error": "invalid_grant", "error_description": "The subject token is not accepted"})
        token = os.urandom(16).hex()
        self.tokens.add(token)
        said = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        return Answer(200, said | {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})

    def _handler(self, name: str) -> Any:
        method = getattr(self, METHODS[name][2])

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append(name)
            self.calls_to_decrypt += name == "Decrypt"
            given = dict(context.invocation_metadata())
            time.sleep(self.delay_s)
            fault = self.always or (self.faults.pop(0) if self.faults else None)
            if fault is not None:
                context.abort(fault, "told to")
            if given.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials.")
            try:
                return method(request)
            except Refused as no:
                context.abort(no.code, no.message)

        return handle

    def _key(self, name: str, need: str) -> Key:
        key = self.keys.get(name)
        if key is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"CryptoKey {name} not found.")
        if need not in key.readers:
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED,
                f"Permission 'cloudkms.{need}' denied on resource '{name}' (or it may not exist).",
            )
        return key

    def _enabled(self, key: Key, name: str, index: int) -> AESGCM:
        if key.states[index] is not STATE.ENABLED:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}/cryptoKeyVersions/{index + 1} is not enabled, current state is: {key.states[index].name}.",
            )
        return AESGCM(key.material[index])

    def _checked(self, request: Any, field: str) -> None:
        if self.damage == field:
            self.damage = None
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The checksum in field {field}_crc32c did not match the data in field {field}.",
            )
        assert getattr(request, f"{field}_crc32c") == crc32c(getattr(request, field))

    def _encrypt(self, request: types.EncryptRequest) -> types.EncryptResponse:
        key = self._key(request.name, "use")
        self._checked(request, "plaintext")
        self._checked(request, "additional_authenticated_data")
        index = len(key.material) - 1
        nonce = os.urandom(12)
        sealed = self._enabled(key, request.name, index).encrypt(
            nonce, request.plaintext, request.additional_authenticated_data
        )
        data = bytes([10, index]) + nonce + sealed
        spoilt = self.damage == "answer"
        if spoilt:
            self.damage = None
        return types.EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/{index + 1}", ciphertext=data, ciphertext_crc32c=crc32c(data) ^ spoilt,
            verified_plaintext_crc32c=True, verified_additional_authenticated_data_crc32c=True,
        )  # fmt: skip

    def _decrypt(self, request: types.DecryptRequest) -> types.DecryptResponse:
        key = self._key(request.name, "use")
        self._checked(request, "ciphertext")
        self._checked(request, "additional_authenticated_data")
        data = request.ciphertext
        if len(data) < 14 or data[0] != 10 or data[1] >= len(key.material):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid.")
        cipher = self._enabled(key, request.name, data[1])
        try:
            plain = cipher.decrypt(data[2:14], data[14:], request.additional_authenticated_data)
        except (InvalidTag, ValueError):
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
            ) from None
        self.unseals += b"openkcm-purpose" not in request.additional_authenticated_data
        return types.DecryptResponse(
            plaintext=plain, plaintext_crc32c=crc32c(plain) ^ self.spoil_every_answer, used_primary=True
        )

    def _get_import_job(self, request: types.GetImportJobRequest) -> types.ImportJob:
        if self.import_job is None or request.name != self.import_job[0]:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"ImportJob {request.name} not found.")
        pem = (
            self.import_job[1]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return types.ImportJob(
            name=request.name, import_method="RSA_OAEP_3072_SHA256_AES_256", state="ACTIVE",
            public_key=types.ImportJob.WrappingPublicKey(pem=pem.decode()),
        )  # fmt: skip

    def _import_version(self, request: types.ImportCryptoKeyVersionRequest) -> types.CryptoKeyVersion:
        key = self._key(request.parent, "get")
        assert self.import_job is not None
        private = self.import_job[1]
        try:
            ephemeral = private.decrypt(request.wrapped_key[:384], OAEP)
            material = keywrap.aes_key_unwrap_with_padding(ephemeral, request.wrapped_key[384:])
        except (ValueError, keywrap.InvalidUnwrap):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "wrapped_key could not be unwrapped.") from None
        name = f"{request.parent}/cryptoKeyVersions/{len(key.material) + 1}"
        self.pending[name] = material
        return types.CryptoKeyVersion(name=name, state=STATE.ENABLED)

    def _set_primary(self, request: types.UpdateCryptoKeyPrimaryVersionRequest) -> types.CryptoKey:
        key = self._key(request.name, "get")
        key.material.append(self.pending.pop(f"{request.name}/cryptoKeyVersions/{request.crypto_key_version_id}"))
        key.states.append(STATE.ENABLED)
        return types.CryptoKey(name=request.name, primary=self._version(key, request.name, len(key.material) - 1))

    def _get_key(self, request: types.GetCryptoKeyRequest) -> types.CryptoKey:
        key = self._key(request.name, "get")
        return types.CryptoKey(name=request.name, primary=self._version(key, request.name, len(key.material) - 1))

    def _get_version(self, request: types.GetCryptoKeyVersionRequest) -> types.CryptoKeyVersion:
        name, _, number = request.name.partition("/cryptoKeyVersions/")
        return self._version(self._key(name, "get"), name, int(number) - 1)

    @staticmethod
    def _version(key: Key, name: str, index: int) -> types.CryptoKeyVersion:
        return types.CryptoKeyVersion(name=f"{name}/cryptoKeyVersions/{index + 1}", state=key.states[index])
