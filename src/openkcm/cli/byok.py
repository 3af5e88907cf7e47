"""`openkcm root import`: a customer's own key material into its own KMS (BYOK). Run at the customer's side, by its own
administrator's credential: neither governance nor a node sees the material or this process.

The material is wrapped for the KMS's import key here, and goes straight to it. Sources: AWS KMS developer guide,
"Importing key material"; Cloud KMS, "Manually wrapping keys"; Azure Key Vault, "Bring your own key specification";
PKCS #11 v2.40, section 2.1.21 (RSA AES key wrap); RFC 5649.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

__all__ = ["IMPORTERS", "WRAPPINGS", "material_of", "rsa_key_of", "run"]

MATERIAL_BYTES: Final = 32
SMALLEST_RSA: Final = 2048
GCP_METHOD: Final = "RSA_OAEP_3072_SHA256_AES_256"
DEADLINE_S: Final = 30.0
TRIES: Final = 60  # seconds that an import may take
#: What Azure's specification asks for; SHA-1 here is a mask, no signature.
_OAEP_SHA1: Final = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def _oaep(material: bytes, public_key: rsa.RSAPublicKey) -> bytes:
    return public_key.encrypt(material, _OAEP)


def _aes_kwp(material: bytes, public_key: rsa.RSAPublicKey, oaep: padding.OAEP = _OAEP) -> bytes:
    """RSA AES key wrap: a fresh AES-256 key under OAEP, then the material under that key (RFC 5649)."""
    ephemeral = os.urandom(32)
    return public_key.encrypt(ephemeral, oaep) + keywrap.aes_key_wrap_with_padding(ephemeral, material)


#: `--wrapping` -> how the material is wrapped, and what AWS calls it.
WRAPPINGS: Final[dict[str, tuple[Callable[[bytes, rsa.RSAPublicKey], bytes], str]]] = {
    "oaep": (_oaep, "RSAES_OAEP_SHA_256"),
    "aes-kwp": (_aes_kwp, "RSA_AES_KEY_WRAP_SHA_256"),
}


def _own(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise click.ClickException(f"{path} is open to others; make it 0600")
    return path.read_bytes()


def rsa_key_of(path: Path) -> bytes:
    """Return the RSA private key in a PEM file that only its owner reads, as PKCS #8.

    Raises:
        click.ClickException: Not so; the message never quotes the file.
    """
    try:
        key = serialization.load_pem_private_key(_own(path), None)
    except (ValueError, TypeError) as bad:
        raise click.ClickException(f"{path} is no RSA private key in PEM without a password") from bad
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < SMALLEST_RSA:
        raise click.ClickException(f"{path} is no RSA key of {SMALLEST_RSA} bits or more")
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def material_of(path: Path) -> bytes:
    """Return the 32 bytes in a file that only its owner reads.

    Raises:
        click.ClickException: Not so; the message never quotes the file.
    """
    material = _own(path)
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


def _gcp(ref: str, material: bytes, _wrapping: str, options: dict[str, Any]) -> str:
    """Through an import job of the customer's; the material becomes the key's primary version."""
    import google.api_core.exceptions
    import google.auth
    from google.cloud import kms_v1

    if not options["import_job"]:
        raise click.ClickException(f"name the import job (--import-job), made with method {GCP_METHOD}")
    try:
        ring = ref[: ref.index("/cryptoKeys/")]
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloudkms"])
        address = options["endpoint_url"] and urllib.parse.urlsplit(options["endpoint_url"]).netloc
        kms = kms_v1.KeyManagementServiceClient(
            credentials=credentials, client_options={"api_endpoint": address} if address else None
        )
        job = kms.get_import_job(name=f"{ring}/importJobs/{options['import_job']}", timeout=DEADLINE_S)
        if job.state.name != "ACTIVE" or job.import_method.name != GCP_METHOD:
            seen = f"{job.state.name}, {job.import_method.name}"
            raise click.ClickException(f"the import job is {seen}: it must be ACTIVE and {GCP_METHOD}")
        public_key = serialization.load_pem_public_key(job.public_key.pem.encode())
        assert isinstance(public_key, rsa.RSAPublicKey)
        version = kms.import_crypto_key_version(timeout=DEADLINE_S, request={
            "parent": ref, "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION", "import_job": job.name,
            "wrapped_key": _aes_kwp(material, public_key),
        })  # fmt: skip
        for _ in range(TRIES):
            if version.state.name != "PENDING_IMPORT":
                break
            time.sleep(1)
            version = kms.get_crypto_key_version(name=version.name, timeout=DEADLINE_S)
        if version.state.name != "ENABLED":
            why = f"{version.state.name}: {version.import_failure_reason or 'try again later'}"
            raise click.ClickException(f"{version.name} is {why}. The primary version is as it was")
        number = version.name.rpartition("/")[2]
        kms.update_crypto_key_primary_version(name=ref, crypto_key_version_id=number, timeout=DEADLINE_S)
    except ValueError as bad:
        raise click.ClickException("expected projects/P/locations/L/keyRings/R/cryptoKeys/K") from bad
    except (google.api_core.exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError) as bad:
        raise click.ClickException(f"{bad}. Look at the key's versions for what was done") from bad
    return f"imported into {version.name}, which is {version.state.name} and primary"


def _azure(ref: str, material: bytes, _wrapping: str, options: dict[str, Any]) -> str:
    """As a transfer blob under a key exchange key (KEK) that the customer made in the same vault."""
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.keys import JsonWebKey, KeyClient

    if not options["kek"]:
        raise click.ClickException("name the key exchange key (--kek): an RSA-HSM key whose one operation is `import`")
    found = urllib.parse.urlsplit(ref)
    name = found.path.removeprefix("/keys/")
    if found.scheme != "https" or not found.path.startswith("/keys/") or "/" in name:
        raise click.ClickException("expected https://VAULT.vault.azure.net/keys/NAME, without a version")
    own = options["endpoint_url"]
    try:
        credential = DefaultAzureCredential(disable_instance_discovery=bool(own))
        with KeyClient(own or f"https://{found.netloc}", credential, verify_challenge_resource=not own) as keys:
            kek = keys.get_key(options["kek"])
            public: Any = kek.key  # a JsonWebKey's fields are set by name
            if list(kek.key_operations or ()) != ["import"] or public.n is None or public.e is None:
                raise click.ClickException(f"{kek.id} is no RSA key whose one operation is `import`")
            numbers = rsa.RSAPublicNumbers(int.from_bytes(public.e, "big"), int.from_bytes(public.n, "big"))
            sealed = _aes_kwp(material, numbers.public_key(), _OAEP_SHA1)
            blob = {
                "schema_version": "1.0.0", "generator": "openkcm",
                "header": {"kid": kek.id, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
                "ciphertext": base64.urlsafe_b64encode(sealed).rstrip(b"=").decode(),
            }  # fmt: skip
            key = JsonWebKey(kty="RSA-HSM", key_ops=["wrapKey", "unwrapKey"], t=json.dumps(blob).encode())
            made = keys.import_key(name, key, hardware_protected=True)
    except AzureError as bad:
        raise click.ClickException(f"{bad}. Nothing was imported, or the key's newest version shows what was") from bad
    return f"imported into {made.id}"


#: Provider -> what its material is, and its import. Others import by their own tools: docs/roots says how.
IMPORTERS: Final[dict[str, tuple[Callable[[Path], bytes], Callable[[str, bytes, str, dict[str, Any]], str]]]] = {
    "aws": (material_of, _aws),
    "azure": (rsa_key_of, _azure),
    "gcp": (material_of, _gcp),
}


def run(provider: str, ref: str, material: Path, wrapping: str, options: dict[str, Any]) -> str:
    """Import, and return what was done, in words.

    Raises:
        click.ClickException: No import for this provider, unusable material, or the KMS's refusal.
    """
    if provider not in IMPORTERS:
        raise click.ClickException(
            f"a key of {provider} is made in the HSM by its own tool, see docs/roots/{provider}.md"
        )
    read, do = IMPORTERS[provider]
    return do(ref, read(material), wrapping, options)
