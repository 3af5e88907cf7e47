"""`openkcm root import`: a customer's own key material into its own KMS (BYOK). Run at the customer's side, by its own
administrator's credential: neither governance nor a node sees the material or this process.

The material is wrapped for the KMS's import key here, and goes straight to it. Sources: AWS KMS developer guide,
"Importing key material"; PKCS #11 v2.40, section 2.1.21 (RSA AES key wrap); RFC 5649.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

__all__ = ["IMPORTERS", "WRAPPINGS", "material_of", "run"]

MATERIAL_BYTES: Final = 32
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def _oaep(material: bytes, public_key: rsa.RSAPublicKey) -> bytes:
    return public_key.encrypt(material, _OAEP)


def _aes_kwp(material: bytes, public_key: rsa.RSAPublicKey) -> bytes:
    """RSA AES key wrap: a fresh AES-256 key under OAEP, then the material under that key (RFC 5649)."""
    ephemeral = os.urandom(32)
    return public_key.encrypt(ephemeral, _OAEP) + keywrap.aes_key_wrap_with_padding(ephemeral, material)


#: `--wrapping` -> how the material is wrapped, and what AWS calls it.
WRAPPINGS: Final[dict[str, tuple[Callable[[bytes, rsa.RSAPublicKey], bytes], str]]] = {
    "oaep": (_oaep, "RSAES_OAEP_SHA_256"),
    "aes-kwp": (_aes_kwp, "RSA_AES_KEY_WRAP_SHA_256"),
}


def material_of(path: Path) -> bytes:
    """Return the 32 bytes in a file that only its owner reads.

    Raises:
        click.ClickException: Not so; the message never quotes the file.
    """
    if path.stat().st_mode & 0o077:
        raise click.ClickException(f"{path} is open to others; make it 0600")
    material = path.read_bytes()
    if len(material) != MATERIAL_BYTES:
        raise click.ClickException(f"{path} has {len(material)} bytes; key material is {MATERIAL_BYTES} raw bytes")
    return material


def _aws(ref: str, material: bytes, wrapping: str, options: dict[str, Any]) -> str:
    import boto3
    import botocore.exceptions

    wrap, algorithm = WRAPPINGS[wrapping]
    try:
        region = ref.split(":")[3]
        session = boto3.Session(profile_name=options["profile"], region_name=region)
        kms = session.client("kms", endpoint_url=options["endpoint_url"])
        told = kms.get_parameters_for_import(KeyId=ref, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_4096")
        public_key = serialization.load_der_public_key(told["PublicKey"])
        assert isinstance(public_key, rsa.RSAPublicKey)
        kms.import_key_material(
            KeyId=ref, ImportToken=told["ImportToken"], EncryptedKeyMaterial=wrap(material, public_key),
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )  # fmt: skip
        state = kms.describe_key(KeyId=ref)["KeyMetadata"]["KeyState"]
    except IndexError as bad:
        raise click.ClickException("expected the ARN of a KMS key made with Origin=EXTERNAL") from bad
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as bad:
        raise click.ClickException(f"{bad}. Nothing was imported, or describe_key shows what was") from bad
    return f"imported into {ref} under {algorithm}; the key is {state}"


#: Provider -> its import. Others import by their own tools: docs/roots says how.
IMPORTERS: Final[dict[str, Callable[[str, bytes, str, dict[str, Any]], str]]] = {"aws": _aws}


def run(provider: str, ref: str, material: Path, wrapping: str, options: dict[str, Any]) -> str:
    """Import, and return what was done, in words.

    Raises:
        click.ClickException: No import for this provider, unusable material, or the KMS's refusal.
    """
    if provider not in IMPORTERS:
        raise click.ClickException(
            f"no import into {provider} by this tool yet; its own tool does it, see docs/roots/{provider}.md"
        )
    return IMPORTERS[provider](ref, material_of(material), wrapping, options)
