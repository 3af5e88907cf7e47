"""Customers whose KMS is a real one, from the environment (docs/roots/README.md). Each makes what it needs, under its own name.

What a cloud does only after days, and what would need rights over the whole account (IAM), is missing: its test is skipped.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from openkcm.contract.decrees import Provider, RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots.base import RootSettings

DEADLINE_S = 10.0  # a first call signs in; nodes do so ahead of need


def env(name: str, default: str | None = None) -> str:
    found = os.environ.get(f"OPENKCM_LIVE_{name}", default)
    if found is None:
        pytest.skip(f"OPENKCM_LIVE_{name} is not set")
    return found


class Live:
    """What all have in common. `endpoint`: the one that is made unreachable and silent."""

    provider: Provider
    endpoint: str
    silent_url = "https://127.0.0.1:{}"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"openkcm-live-{uuid.uuid4().hex[:12]}"
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.reference = RootReference(provider=self.provider, ref=self.make())
        self.settings = RootSettings(policy=self.policy(), deadline_s=DEADLINE_S)

    def make(self) -> str:
        """Make the key; return its reference."""
        raise NotImplementedError

    def policy(self) -> RootPolicy:
        """What the node's configuration would say."""
        raise NotImplementedError

    def at(self, url: str, deadline_s: float) -> RootSettings:
        policy = self.settings.policy
        return replace(
            self.settings,
            policy=replace(policy, endpoints={**policy.endpoints, self.endpoint: url}),
            deadline_s=deadline_s,
        )

    def unreachable(self) -> RootSettings:
        return self.at(self.silent_url.format(1), 2.0)

    def slow(self) -> RootSettings:
        return self.at(self.silent_url.format(self.silent.getsockname()[1]), 1.0)

    def close(self) -> None:
        self.silent.close()
        self.end()

    def end(self) -> None:
        """Remove what was made, or have it removed."""


class LiveAws(Live):
    provider = "aws"

    def __init__(self, directory: Path) -> None:
        import boto3

        self.region = env("AWS_REGION")
        self.url = env("AWS_ENDPOINT", f"https://kms.{self.region}.amazonaws.com")
        self.endpoint, self.keys = f"aws:{self.region}", list[str]()
        if self.url.startswith("http:"):
            self.silent_url = "http://127.0.0.1:{}"
        session = boto3.Session(profile_name=env("AWS_ADMIN_PROFILE"), region_name=self.region)
        self.kms = session.client("kms", endpoint_url=self.url)
        super().__init__(directory)

    def _key(self) -> str:
        self.keys.append(self.kms.create_key(Description=self.name)["KeyMetadata"]["Arn"])
        return self.keys[-1]

    def make(self) -> str:
        arn = self._key()
        self.kms.create_alias(AliasName=f"alias/{self.name}", TargetKeyId=arn)
        return arn.rpartition(":")[0] + f":alias/{self.name}"

    def policy(self) -> RootPolicy:
        profile = {"profile": env("AWS_NODE_PROFILE")}
        file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
        credential = {**profile, **({"credentials_file": file} if file else {})}
        return RootPolicy(providers=("aws",), endpoints={self.endpoint: self.url}, credentials={"aws": credential})

    def rotate(self) -> None:
        self.kms.update_alias(AliasName=f"alias/{self.name}", TargetKeyId=self._key())

    use_another_key = rotate

    def disable(self) -> None:
        self.kms.disable_key(KeyId=self.keys[-1])
        time.sleep(2)

    def enable(self) -> None:
        self.kms.enable_key(KeyId=self.keys[-1])
        time.sleep(2)

    def schedule_deletion(self) -> None:
        self.kms.schedule_key_deletion(KeyId=self.keys[-1], PendingWindowInDays=7)

    def bad_credential(self) -> RootSettings:
        (bad := self.directory / "bad").write_text(
            "[x]\naws_access_key_id = AKIANOBODYKNOWSTHIS0\naws_secret_access_key = y\n"
        )
        credential = {"aws": {"profile": "x", "credentials_file": str(bad)}}
        return replace(self.settings, policy=replace(self.settings.policy, credentials=credential))

    def end(self) -> None:
        self.kms.delete_alias(AliasName=f"alias/{self.name}")
        for key in self.keys:
            if self.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] != "PendingDeletion":
                self.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)


class LiveAzure(Live):
    provider = "azure"

    def __init__(self, directory: Path) -> None:
        from azure.identity import ClientSecretCredential
        from azure.keyvault.keys import KeyClient

        self.host, self.tenant = env("AZURE_VAULT"), env("AZURE_TENANT")
        self.endpoint = f"azure:{self.host}"
        secret = Path(env("AZURE_ADMIN_SECRET_FILE")).read_text().strip()
        admin = ClientSecretCredential(self.tenant, env("AZURE_ADMIN_CLIENT"), secret)
        self.client = KeyClient(f"https://{self.host}", admin)
        super().__init__(directory)

    def make(self) -> str:
        self.client.create_rsa_key(self.name, size=3072, key_operations=["wrapKey", "unwrapKey"])
        return f"https://{self.host}/keys/{self.name}"

    def policy(self) -> RootPolicy:
        return self._with(env("AZURE_SECRET_FILE"))

    def _with(self, secret_file: str) -> RootPolicy:
        credential = {"source": "secret", "tenant_id": self.tenant, "client_id": env("AZURE_CLIENT"),
                      "secret_file": secret_file}  # fmt: skip
        return RootPolicy(
            providers=("azure",), vaults={self.host: env("AZURE_PLACE")}, credentials={"azure": credential},
            endpoints={"azure-login": "https://login.microsoftonline.com"},
        )  # fmt: skip

    def rotate(self) -> None:
        self.client.create_rsa_key(self.name, size=3072, key_operations=["wrapKey", "unwrapKey"])

    use_another_key = rotate

    def disable(self) -> None:
        self.client.update_key_properties(self.name, enabled=False)

    def enable(self) -> None:
        version = next(iter(self.client.list_properties_of_key_versions(self.name))).version
        self.client.update_key_properties(self.name, version, enabled=True)

    def schedule_deletion(self) -> None:
        self.client.begin_delete_key(self.name).wait()

    def bad_credential(self) -> RootSettings:
        (wrong := self.directory / "wrong").touch(0o600)
        wrong.write_text("wrong\n")
        return replace(self.settings, policy=self._with(str(wrong)))

    def end(self) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self.client.begin_delete_key(self.name).wait()
        except ResourceNotFoundError:
            return


class LiveGcp(Live):
    provider = "gcp"
    endpoint = "gcp"

    def __init__(self, directory: Path) -> None:
        from google.cloud import kms_v1

        self.types, self.ring = kms_v1, env("GCP_KEYRING")
        self.kms = kms_v1.KeyManagementServiceClient.from_service_account_file(env("GCP_ADMIN_FILE"))
        super().__init__(directory)

    def make(self) -> str:
        key = self.types.CryptoKey(purpose=self.types.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT)
        made = self.kms.create_crypto_key(parent=self.ring, crypto_key_id=self.name, crypto_key=key)
        return str(made.name)

    def policy(self) -> RootPolicy:
        return self._with(env("GCP_NODE_FILE"))

    @staticmethod
    def _with(file: str) -> RootPolicy:
        return RootPolicy(
            providers=("gcp",), credentials={"gcp": {"credentials_file": file}},
            endpoints={"gcp": "https://cloudkms.googleapis.com", "gcp-token": "https://oauth2.googleapis.com/token"},
        )  # fmt: skip

    def _primary(self) -> Any:
        return self.kms.get_crypto_key(name=self.reference.ref).primary

    def _set(self, state: Any) -> None:
        version = self.types.CryptoKeyVersion(name=self._primary().name, state=state)
        self.kms.update_crypto_key_version(crypto_key_version=version, update_mask={"paths": ["state"]})
        time.sleep(5)

    def rotate(self) -> None:
        made = self.kms.create_crypto_key_version(parent=self.reference.ref)
        number = made.name.rpartition("/")[2]
        self.kms.update_crypto_key_primary_version(name=self.reference.ref, crypto_key_version_id=number)
        time.sleep(5)

    def disable(self) -> None:
        self._set(self.types.CryptoKeyVersion.CryptoKeyVersionState.DISABLED)

    def enable(self) -> None:
        self._set(self.types.CryptoKeyVersion.CryptoKeyVersionState.ENABLED)

    def schedule_deletion(self) -> None:
        self.kms.destroy_crypto_key_version(name=self._primary().name)
        time.sleep(5)

    def bad_credential(self) -> RootSettings:
        from simulators.google import service_account_file

        return replace(self.settings, policy=self._with(str(service_account_file(self.directory / "unknown.json"))))

    def end(self) -> None:
        for version in self.kms.list_crypto_key_versions(parent=self.reference.ref):
            if version.state.name in {"ENABLED", "DISABLED"}:
                self.kms.destroy_crypto_key_version(name=version.name)


class LivePkcs11(Live):
    provider = "pkcs11"
    endpoint = "pkcs11"
    unreachable = slow = property()  # type: ignore[assignment]  # a library's own configuration decides

    def make(self) -> str:
        self._generate()
        return f"pkcs11:token={env('PKCS11_TOKEN').replace(' ', '%20')};object={self.name};type=secret-key"

    def policy(self) -> RootPolicy:
        return self._with(env("PKCS11_PIN_FILE"))

    @staticmethod
    def _with(pin_file: str) -> RootPolicy:
        credential = {
            "module": env("PKCS11_MODULE"),
            "environment": env("PKCS11_ENVIRONMENT", ""),
            "pin_file": pin_file,
        }
        return RootPolicy(providers=("pkcs11",), credentials={"pkcs11": credential})

    def _session(self) -> Any:
        import pkcs11

        os.environ.update(pair.partition("=")[::2] for pair in env("PKCS11_ENVIRONMENT", "").split())
        token = pkcs11.lib(env("PKCS11_MODULE")).get_token(token_label=env("PKCS11_TOKEN"))
        return token.open(rw=True, user_pin=Path(env("PKCS11_PIN_FILE")).read_text().strip())

    def _keys(self, session: Any) -> list[Any]:
        from pkcs11 import Attribute, ObjectClass

        return list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self.name}))

    def _generate(self) -> None:
        from pkcs11 import Attribute, KeyType, MechanismFlag

        with self._session() as session:
            session.generate_key(
                KeyType.AES, 256, label=self.name, id=(len(self._keys(session)) + 1).to_bytes(2, "big"), store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )  # fmt: skip

    def rotate(self) -> None:
        self._generate()

    def _allow(self, *, use: bool) -> None:
        from pkcs11 import Attribute

        with self._session() as session:
            for key in self._keys(session):
                key[Attribute.ENCRYPT] = use
                key[Attribute.DECRYPT] = use

    def disable(self) -> None:
        self._allow(use=False)

    def enable(self) -> None:
        self._allow(use=True)

    def delete(self) -> None:
        with self._session() as session:
            for key in self._keys(session):
                key.destroy()

    end = delete


class LiveKmip(Live):
    provider = "kmip"
    endpoint = "kmip:kmip"
    silent_url = "127.0.0.1:{}"

    def make(self) -> str:
        return f"name:{env('KMIP_NAME')}"

    def policy(self) -> RootPolicy:
        credential = {"certificate": env("KMIP_CERTIFICATE"), "key": env("KMIP_KEY"), "ca_bundle": env("KMIP_CA")}
        return RootPolicy(
            providers=("kmip",), endpoints={self.endpoint: env("KMIP_ENDPOINT")}, credentials={"kmip": credential}
        )


CUSTOMERS: dict[str, type[Live]] = {
    "aws": LiveAws, "azure": LiveAzure, "gcp": LiveGcp, "pkcs11": LivePkcs11, "kmip": LiveKmip,
}  # fmt: skip
