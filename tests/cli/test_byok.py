"""A customer's own key material into its own KMS, and the root that comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import rsa

from contract_suites.roots import CONTEXT, KEK, refused
from execution.test_roots_aws import AwsCustomer
from openkcm.cli import byok
from openkcm.cli.main import main
from openkcm.execution.roots import open_root
from simulators.ministack import ADMIN_KEY, ADMIN_SECRET, REGION, MiniStack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    server = MiniStack(tmp_path_factory.mktemp("ministack"))
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
        ("gcp", "projects/p", good, "docs/roots/gcp.md"),
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
