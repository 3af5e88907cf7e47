"""Azure Key Vault and its sign-in on the wire: HTTPS, challenges, tokens, real RSA-OAEP and AES key wrap, faults.

Statuses and error bodies follow the REST reference and recorded answers: 403 with an inner code for a disabled key, 404
for a deleted one that `/deletedkeys` still knows, 400 BadParameter for what does not unwrap.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.parse
from itertools import count
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from openkcm.cli.pki import authority
from simulators.https import Answer, Asked, Https

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "99999999-8888-7777-6666-555555555555"
SECRET = "federated-or-plain"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_KWP = {"wrapKey": keywrap.aes_key_wrap_with_padding, "unwrapKey": keywrap.aes_key_unwrap_with_padding}
_POOL: list[rsa.RSAPrivateKey] = []
_made = count()


def _rsa() -> rsa.RSAPrivateKey:
    """One of eight keys, in turn: making one takes a tenth of a second."""
    if len(_POOL) < 8:
        _POOL.append(rsa.generate_private_key(65537, 2048))
    return _POOL[next(_made) % len(_POOL)]


class Key:
    """Versions of one key, the last one current. `aes`: as a Managed HSM has them."""

    def __init__(self, *, aes: bool = False) -> None:
        self.aes = aes
        self.versions: dict[str, Any] = {}
        self.enabled: dict[str, bool] = {}
        self.allowed = {"get", "wrapKey", "unwrapKey"}
        self.deleted = False
        self.rotate()

    def rotate(self) -> None:
        version = os.urandom(16).hex()
        self.versions[version] = os.urandom(32) if self.aes else _rsa()
        self.enabled[version] = True

    @property
    def current(self) -> str:
        return list(self.versions)[-1]


class AzureVault:
    def __init__(self, directory: Path) -> None:
        self.pki = authority(directory)
        self.ca = self.pki.ca
        self.keys: dict[str, Key] = {}
        self.purged: set[str] = set()
        self.kek: tuple[str, rsa.RSAPrivateKey] | None = None  # name and key of the key exchange key
        self.tokens: set[str] = set()
        self.vault = Https(self.pki, self._vault)
        self.login = Https(self.pki, self._login)
        self.url = self.vault.url

    def stop(self) -> None:
        self.vault.stop()
        self.login.stop()

    # --- sign-in ------------------------------------------------------------------------------------------------------

    def _login(self, asked: Asked) -> Answer:
        base = f"{self.login.url}/{TENANT}"
        if asked.path.endswith("/.well-known/openid-configuration"):
            return Answer(200, {
                "issuer": f"{base}/v2.0", "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
            })  # fmt: skip
        form = dict(urllib.parse.parse_qsl(asked.body.decode()))
        shown = form.get("client_secret") or form.get("client_assertion")
        if form.get("client_id") != CLIENT or shown != SECRET:
            return Answer(
                401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."}
            )
        token = os.urandom(16).hex()
        self.tokens.add(token)
        return Answer(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": token})

    # --- the vault ----------------------------------------------------------------------------------------------------

    def _vault(self, asked: Asked) -> Answer:
        token = (asked.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.tokens:
            challenge = f'Bearer authorization="{self.login.url}/{TENANT}", resource="https://vault.azure.net"'
            return Answer(401, _error("Unauthorized", "AKV10000"), {"WWW-Authenticate": challenge})
        kind, name, *rest = asked.path.strip("/").split("/")
        if asked.method == "PUT":
            return self._import(name, json.loads(asked.body))
        if self.kek is not None and name == self.kek[0]:
            return Answer(200, self._kek_bundle())
        key = self.keys.get(name)
        if kind == "deletedkeys":
            there = key is not None and key.deleted and name not in self.purged and "get" in key.allowed
            return Answer(200, self._bundle(name, key, key.current)) if there and key else _not_found(name)
        if key is None or key.deleted:
            return _not_found(name)
        version = rest[0] if rest and rest[0] in key.versions else key.current
        operation = {"wrapkey": "wrapKey", "unwrapkey": "unwrapKey"}.get(rest[-1] if rest else "", "get")
        if operation not in key.allowed:
            return Answer(403, _error("Forbidden", "Caller is not authorized to perform action.", "ForbiddenByRbac"))
        if rest and operation == "get" and rest[0] not in key.versions:
            return _not_found(name)
        if not key.enabled[version]:
            return Answer(403, _error("Forbidden", "Operation is not allowed on a disabled key.", "KeyDisabled"))
        if operation == "get":
            return Answer(200, self._bundle(name, key, version))
        told = json.loads(asked.body)
        return self._operate(operation, key.versions[version], told, f"{self.url}/keys/{name}/{version}")

    def _kek_bundle(self) -> dict[str, Any]:
        assert self.kek is not None
        name, private = self.kek
        numbers = private.public_key().public_numbers()
        jwk = {"kid": f"{self.url}/keys/{name}/{'0' * 32}", "kty": "RSA-HSM", "key_ops": ["import"],
               "n": _base64(numbers.n.to_bytes(private.key_size // 8, "big")), "e": _base64(b"\1\0\1")}  # fmt: skip
        return {"key": jwk, "attributes": {"enabled": True, "created": 1, "updated": 1}}

    def _import(self, name: str, told: dict[str, Any]) -> Answer:
        blob = json.loads(_unbase64(told["key"]["key_hsm"]))
        if self.kek is None or blob["header"] != {
            "kid": self._kek_bundle()["key"]["kid"], "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"
        }:  # fmt: skip
            return Answer(400, _error("BadParameter", "The transfer blob's header does not fit."))
        sealed, size = _unbase64(blob["ciphertext"]), self.kek[1].key_size // 8
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        try:
            der = keywrap.aes_key_unwrap_with_padding(self.kek[1].decrypt(sealed[:size], oaep), sealed[size:])
        except (ValueError, keywrap.InvalidUnwrap):
            return Answer(400, _error("BadParameter", "The transfer blob does not unwrap."))
        key = self.keys.setdefault(name, Key())
        version = os.urandom(16).hex()
        key.versions[version], key.enabled[version] = serialization.load_der_private_key(der, None), True
        return Answer(200, self._bundle(name, key, version))

    def _operate(self, operation: str, key: Any, told: dict[str, str], kid: str) -> Answer:
        value = _unbase64(told["value"])
        algorithm = "CKM_AES_KEY_WRAP_PAD" if isinstance(key, bytes) else "RSA-OAEP-256"
        if told["alg"] != algorithm:
            return Answer(400, _error("BadParameter", f"Algorithm {told['alg']} does not fit the key"))
        try:
            if isinstance(key, bytes):
                result = _KWP[operation](key, value)
            else:
                result = key.public_key().encrypt(value, OAEP) if operation == "wrapKey" else key.decrypt(value, OAEP)
        except (ValueError, keywrap.InvalidUnwrap):
            return Answer(400, _error("BadParameter", "The parameter is incorrect."))
        return Answer(200, {"kid": kid, "value": _base64(result)})

    def _bundle(self, name: str, key: Key, version: str) -> dict[str, Any]:
        jwk: dict[str, Any] = {
            "kid": f"{self.url}/keys/{name}/{version}",
            "kty": "oct-HSM",
            "key_ops": ["wrapKey", "unwrapKey"],
        }
        material = key.versions[version]
        if not key.aes:
            numbers = material.public_key().public_numbers()
            jwk |= {"kty": "RSA", "n": _base64(numbers.n.to_bytes(256, "big")), "e": _base64(b"\1\0\1")}
        return {"key": jwk, "attributes": {"enabled": key.enabled[version], "created": 1, "updated": 1}}


def _error(code: str, message: str, inner: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **({"innererror": {"code": inner}} if inner else {})}}


def _not_found(name: str) -> Answer:
    return Answer(404, _error("KeyNotFound", f"A key with (name/id) {name} was not found in this key vault."))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
