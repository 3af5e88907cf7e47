"""The one-command stack's own certificates: a CA, servers and processes, workloads. Never used in production.

Idempotent: what exists, fits and has time left is kept.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "authority", "renew", "retire", "succeed", "write_private"]

CA_DAYS: Final = 3650
DAYS: Final = 397
RENEW_DAYS: Final = 7
_BACKDATED: Final = dt.timedelta(minutes=5)  # clocks of clients


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads (0600), atomically: never half a key, never readable in between."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Authority:
    """The stack's CA, with the directory in which its certificates lie."""

    def __init__(
        self,
        directory: Path,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        trusted: Sequence[x509.Certificate],
    ) -> None:
        self.directory = directory
        self.trusted = trusted
        self._certificate = certificate
        self._key = key

    @property
    def ca(self) -> Path:
        """What everybody trusts, PEM: the CA's certificate, and while it is changed the earlier one's."""
        return self.directory / "ca.pem"

    @property
    def own(self) -> bytes:
        """The certificate of the CA that signs, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issued(self, path: Path) -> bool:
        """Whether a certificate is of the CA that signs."""
        return _is_of(x509.load_pem_x509_certificate(path.read_bytes()), self._certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return certificate and key (PEM) of a server or process called `name`, reached at localhost."""
        hosts: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.DNSName(name),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, name, hosts, both)

    def issue_workload(self, tenant: str, workload: str, *, spiffe: bool = False) -> tuple[Path, Path]:
        """Return certificate and key (PEM) of a tenant's workload: a client only.

        Args:
            spiffe: Also carry `spiffe://<tenant>.local/<workload>` as URI.
        """
        name = f"{tenant}-{workload}"
        others: list[x509.GeneralName] = (
            [x509.UniformResourceIdentifier(f"spiffe://{tenant}.local/{workload}")] if spiffe else []
        )
        return self._issue(f"workloads/{name}", name, others, [ExtendedKeyUsageOID.CLIENT_AUTH])

    def _issue(
        self, file: str, name: str, others: list[x509.GeneralName], usages: list[x509.ObjectIdentifier]
    ) -> tuple[Path, Path]:
        certificate_path, key_path = self.directory / f"{file}.pem", self.directory / f"{file}.key"
        if self._usable(certificate_path, key_path):
            return certificate_path, key_path
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self._certificate.subject, key.public_key(), DAYS)
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        write_private(key_path, _pem(key))
        write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
        return certificate_path, key_path

    def _usable(self, certificate_path: Path, key_path: Path) -> bool:
        if not (certificate_path.exists() and key_path.exists()):
            return False
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if certificate.public_key() != key.public_key():
            return False
        return any(_is_of(certificate, ca) for ca in self.trusted) and _has_time_left(certificate)


def authority(state_dir: Path) -> Authority:
    """Return the CA of the stack in `state_dir`, made at the first call.

    Raises:
        ValueError: What lies there is not the stack's CA.
    """
    directory = state_dir / "pki"
    certificate_path, key_path = directory / "ca.pem", directory / "ca.key"
    if certificate_path.exists() and key_path.exists():
        trusted = x509.load_pem_x509_certificates(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        own = next((ca for ca in trusted if ca.public_key() == key.public_key()), None)
        if own is None or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{directory}: ca.pem and ca.key do not belong together")
        if _has_time_left(own):
            return Authority(directory, own, key, trusted)
    return _new_authority(directory, [])


def succeed(state_dir: Path) -> None:
    """Make a new CA, which signs from now on. The one before is trusted beside it until `retire`.

    Raises:
        ValueError: Two are trusted already.
    """
    present = authority(state_dir)
    if len(present.trusted) > 1:
        raise ValueError("an earlier CA is trusted still: retire it first")
    _new_authority(present.directory, present.trusted)


def renew(state_dir: Path) -> None:
    """Have every server's and process's certificate be made anew when it is next asked for. Workloads keep theirs."""
    for path in _issued(state_dir / "pki"):
        path.unlink()


def retire(state_dir: Path) -> None:
    """Trust the CA that signs and no other.

    Raises:
        ValueError: A certificate is still of the earlier one; names each.
    """
    present = authority(state_dir)
    paths = [*_issued(present.directory), *sorted((present.directory / "workloads").glob("*.pem"))]
    if left := [path.stem for path in paths if not present.issued(path)]:
        raise ValueError(f"still of the earlier CA: {', '.join(left)}")
    write_private(present.ca, present.own)


def _issued(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.glob("*.pem")) if path.name != "ca.pem"]


def _new_authority(directory: Path, beside: Sequence[x509.Certificate]) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "OpenKCM one-command stack")])
    certificate = (
        _builder("OpenKCM one-command stack", name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted = [certificate, *beside]
    new = Authority(directory, certificate, key, trusted)
    write_private(new.ca, b"".join(ca.public_bytes(serialization.Encoding.PEM) for ca in trusted))
    write_private(directory / "ca.key", _pem(key))  # last: until it is there, whoever had the key before signs
    return new


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _is_of(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # of another CA, or altered
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _has_time_left(certificate: x509.Certificate) -> bool:
    now = dt.datetime.now(dt.UTC)
    return certificate.not_valid_after_utc - now > dt.timedelta(days=RENEW_DAYS)
