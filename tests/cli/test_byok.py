"""A customer's own key material into its own KMS, and the root that comes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from contract_suites.roots import CONTEXT, KEK, refused
from execution.test_roots_aws import AwsCustomer
from execution.test_roots_azure import AzureCustomer
from execution.test_roots_gcp import GcpCustomer
from loopback import free_ports
from openkcm.cli import byok
from openkcm.cli.main import main
from openkcm.execution.roots import open_root
from simulators.azure import CLIENT, SECRET, TENANT, AzureVault
from simulators.google import GoogleKms
from simulators.ministack import ADMIN_KEY, ADMIN_SECRET, REGION, MiniStack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    server = MiniStack(tmp_path_factory.mktemp("ministack"), *free_ports(1))
    yield server
    server.stop()


def material(path: Path, raw: bytes | None = None, mode: int = 0o600) -> Path:
    path.write_bytes(os.urandom(32) if raw is None else raw)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("wrapping", sorted(byok.WRAPPINGS))
def test_imported_material_serves_as_a_root_and_taking_it_away_is_a_cut(
    stack: MiniStack, tmp_path: Path, wrapping: str
) -> None:
    kms = stack.client("kms")
    arn = kms.create_key(Origin="EXTERNAL", Description="BYOK")["KeyMetadata"]["Arn"]
    customer = AwsCustomer(stack, tmp_path)
    stack.move_alias(customer.name, arn)
    root = open_root(customer.reference, customer.settings)
    refused("KeyNotFound", lambda: root.wrap(KEK, CONTEXT))  # its material is not there yet
    file = material(tmp_path / "material")
    done = subprocess.run(
        [sys.executable, "-m", "openkcm.cli.main", "root", "import", "aws", arn, "--material", str(file), "--wrapping",
         wrapping, "--endpoint-url", stack.url],
        env={**os.environ, "AWS_ACCESS_KEY_ID": ADMIN_KEY, "AWS_SECRET_ACCESS_KEY": ADMIN_SECRET, "AWS_REGION": REGION},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Enabled" in done.stdout
    wrapped = root.wrap(KEK, CONTEXT)
    kms.delete_imported_key_material(KeyId=arn)
    assert (
        refused("KeyNotFound", lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT)).action == "lock"
    )
    again = CliRunner().invoke(
        main, ["root", "import", "aws", arn, "--material", str(file), "--endpoint-url", stack.url],
        env={"AWS_ACCESS_KEY_ID": ADMIN_KEY, "AWS_SECRET_ACCESS_KEY": ADMIN_SECRET},
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK  # the very same material, given back


def test_what_is_no_material_or_no_such_key_is_refused_and_not_quoted(stack: MiniStack, tmp_path: Path) -> None:
    plain = stack.create_key()
    environment = {"AWS_ACCESS_KEY_ID": ADMIN_KEY, "AWS_SECRET_ACCESS_KEY": ADMIN_SECRET}
    good, secret = material(tmp_path / "good"), b"not thirty-two bytes of material"[:20]
    for provider, ref, file, why in (
        ("aws", plain, material(tmp_path / "short", secret), "20 bytes"),
        ("aws", plain, material(tmp_path / "open", mode=0o644), "0600"),
        ("aws", plain, good, "EXTERNAL"),  # AWS made that key's material itself
        ("aws", "alias", good, "ARN"),
        ("kmip", "name:l1", good, "docs/roots/kmip.md"),
    ):
        done = CliRunner().invoke(
            main,
            ["root", "import", provider, ref, "--material", str(file), "--endpoint-url", stack.url],
            env=environment,
        )
        assert done.exit_code == 1, done.output
        assert why in done.output
        assert secret.decode() not in done.output


def test_the_aes_wrapping_is_the_one_of_pkcs11() -> None:
    key = rsa.generate_private_key(65537, 2048)
    wrapped = byok.WRAPPINGS["aes-kwp"][0](KEK, key.public_key())
    ephemeral = key.decrypt(wrapped[:256], byok._OAEP)
    assert keywrap.aes_key_unwrap_with_padding(ephemeral, wrapped[256:]) == KEK


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openkcm.cli.main", "root", "import", *map(str, arguments)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_material_imported_into_google_is_primary_and_wraps(tmp_path: Path) -> None:
    google = GoogleKms(tmp_path / "google")
    customer = GcpCustomer(google, tmp_path)
    ring = customer.name.partition("/cryptoKeys/")[0]
    google.import_job = f"{ring}/importJobs/job", rsa.generate_private_key(65537, 3072)
    account = google.external_account(tmp_path / "admin.json", google.sts_subject)
    told = json.loads(account.read_text())
    account.write_text(json.dumps({**told, "token_url": f"{google.token.url}/token"}))
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": str(account), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(google.ca),
                   "REQUESTS_CA_BUNDLE": str(google.ca), "GOOGLE_CLOUD_PROJECT": "acme-prod"}  # fmt: skip
    file = material(tmp_path / "material")
    where = ("--material", file, "--endpoint-url", google.url)
    assert "--import-job" in cli("gcp", customer.name, *where, **environment).stderr
    done = cli("gcp", customer.name, *where, "--import-job", "job", **environment)
    assert done.returncode == 0, done.stderr
    assert customer.key.material[-1] == file.read_bytes()
    root = open_root(customer.reference, customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    assert wrapped.root_version.endswith("/2")
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    refusal = cli("gcp", customer.name, *where, "--import-job", "other", **environment)
    assert refusal.returncode == 1
    assert "not found" in refusal.stderr
    assert len(customer.key.material) == 2
    customer.close()
    google.stop()


def test_an_rsa_key_imported_into_azure_is_the_newest_version_and_wraps(tmp_path: Path) -> None:
    vault = AzureVault(tmp_path)
    customer = AzureCustomer(vault, tmp_path)
    vault.kek = "exchange", rsa.generate_private_key(65537, 2048)
    own = rsa.generate_private_key(65537, 2048)
    pem = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    environment = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET,
                   "AZURE_AUTHORITY_HOST": vault.login.url, "REQUESTS_CA_BUNDLE": str(vault.ca)}  # fmt: skip
    where = ("--material", material(tmp_path / "key.pem", pem), "--endpoint-url", vault.url)
    assert "--kek" in cli("azure", customer.reference.ref, *where, **environment).stderr
    done = cli("azure", customer.reference.ref, *where, "--kek", "exchange", **environment)
    assert done.returncode == 0, done.stderr
    current = customer.key.versions[customer.key.current]
    assert current.private_numbers() == own.private_numbers()
    root = open_root(customer.reference, customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    assert wrapped.root_version.endswith(customer.key.current)
    other = cli("azure", customer.reference.ref, *where, "--kek", customer.name, **environment)
    assert other.returncode == 1
    assert "one operation is `import`" in other.stderr
    raw = cli("azure", customer.reference.ref, "--material", material(tmp_path / "raw"), "--kek", "exchange")
    assert "RSA private key" in raw.stderr
    customer.close()
    vault.stop()
