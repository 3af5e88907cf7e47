"""What a customer does in its own KMS: makes its L1, rotates it, takes it away, gives it back. No part of our planes.

Three kinds of KMS in the one-command stack: a key file the customer owns, the local AWS, and the local HSM.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Protocol

from openkcm.cli import pki
from openkcm.cli.endpoints import Root
from openkcm.cli.layout import Layout
from openkcm.cli.ports import HOST
from openkcm.cli.softhsm import SoftHsm

__all__ = ["AwsCustomer", "Customer", "FileCustomer", "HsmCustomer", "customer_of"]

LABEL = "l1"


class Customer(Protocol):
    """One residence's L1, from its owner's side."""

    def make(self) -> Root:
        """Make the key, if there is none yet, and return how it is linked."""

    def rotate(self) -> str:
        """Have new material wrap from now on; return what was done, in words."""

    def take_away(self) -> str:
        """Make the key unusable; return what was done, in words."""

    def give_back(self) -> str:
        """Undo `take_away`; return what was done, in words."""


class FileCustomer:
    """L1 in a key file: a line per version, the last one wraps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._away = path.with_name(path.name + ".taken-away")

    def make(self) -> Root:
        """Make the file with a first version."""
        if not self._path.exists() and not self._away.exists():
            self._write([])
        return Root(provider="file", ref=str(self._path))

    def rotate(self) -> str:
        """Add a line."""
        lines = self._path.read_text().splitlines()
        self._write(lines)
        return f"added version {len(lines) + 1} to the key file"

    def take_away(self) -> str:
        """Move the file out of its place."""
        self._path.rename(self._away)
        return "took the key file away"

    def give_back(self) -> str:
        """Move it back."""
        self._away.rename(self._path)
        return "put the key file back"

    def _write(self, lines: list[str]) -> None:
        new = f"v{len(lines) + 1}:{base64.b64encode(os.urandom(32)).decode()}"
        pki.write_private(self._path, "".join(f"{line}\n" for line in [*lines, new]).encode())


class AwsCustomer:
    """L1 behind an alias in the local AWS KMS: rotation moves the alias to a new key, the cut is DisableKey."""

    def __init__(self, url: str, name: str, region: str) -> None:
        self._url, self._alias, self._region = url, f"alias/{name}", region

    def make(self) -> Root:
        """Make a key and its alias."""
        kms = self._kms()
        known = {a["AliasName"]: a["AliasArn"] for a in kms.list_aliases()["Aliases"]}
        if self._alias not in known:
            arn = self._new_key()
            kms.create_alias(AliasName=self._alias, TargetKeyId=arn)
            known[self._alias] = arn.rpartition(":")[0] + f":{self._alias}"
        return Root(provider="aws", ref=known[self._alias])

    def rotate(self) -> str:
        """Move the alias to a new key."""
        self._kms().update_alias(AliasName=self._alias, TargetKeyId=self._new_key())
        return f"moved {self._alias} to a new key"

    def take_away(self) -> str:
        """Disable the key behind the alias."""
        self._kms().disable_key(KeyId=self._target())
        return "disabled the key"

    def give_back(self) -> str:
        """Enable it again."""
        self._kms().enable_key(KeyId=self._target())
        return "enabled the key"

    def _new_key(self) -> str:
        return str(self._kms().create_key(Description=f"L1 of {self._alias}")["KeyMetadata"]["Arn"])

    def _target(self) -> str:
        return str(self._kms().describe_key(KeyId=self._alias)["KeyMetadata"]["KeyId"])

    def _kms(self) -> Any:
        import boto3

        from openkcm.cli.ministack import ADMIN_KEY, ADMIN_SECRET

        return boto3.client(
            "kms", endpoint_url=self._url, region_name=self._region, aws_access_key_id=ADMIN_KEY,
            aws_secret_access_key=ADMIN_SECRET,
        )  # fmt: skip


class HsmCustomer:
    """L1 on a token of the customer's own, in the local HSM: rotation makes another key, the cut forbids the use."""

    def __init__(self, hsm: SoftHsm, token: str) -> None:
        self._hsm, self._token = hsm, token

    def make(self) -> Root:
        """Make the token and its first key."""
        if not self._hsm.has_token(self._token):
            self._hsm.make_token(self._token)
        if not self._hsm.versions(self._token, LABEL):
            self._hsm.make_key(self._token, LABEL)
        return Root(provider="pkcs11", ref=f"pkcs11:token={self._token};object={LABEL};type=secret-key")

    def rotate(self) -> str:
        """Make a key of the same label with a higher id."""
        self._hsm.make_key(self._token, LABEL)
        return f"made another key {LABEL} on the token"

    def take_away(self) -> str:
        """Switch CKA_ENCRYPT and CKA_DECRYPT off."""
        self._hsm.allow(self._token, LABEL, use=False)
        return "forbade the use of the key on the token"

    def give_back(self) -> str:
        """Switch them on again."""
        self._hsm.allow(self._token, LABEL, use=True)
        return "allowed it again"


def customer_of(layout: Layout, tenant: str, region: str) -> Customer:
    """Return the owner of a residence's L1, in the KMS that this stack uses."""
    if layout.aws:
        url = f"http://{HOST}:{layout.ports.ministack}"
        return AwsCustomer(url, f"{tenant}-{region}", layout.cloud_region(region))
    if layout.pkcs11:
        return HsmCustomer(layout.hsm, f"{tenant}-{region}")
    return FileCustomer(layout.root_file(tenant, region))
