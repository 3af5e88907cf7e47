"""CAs of customers' own, and certificates under them: for tests of who may vouch for whom."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openkcm.cli import pki

_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_UNTIL = dt.datetime(2060, 1, 1, tzinfo=dt.UTC)


class OwnCa:
    """A CA, root or intermediate, and what it issues."""

    def __init__(
        self, name: str, *, issuer: OwnCa | None = None, key=None, ca: bool = True, signs: bool = True
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer, above = (self.key, self.name) if issuer is None else (issuer.key, issuer.name)
        self.chain = [] if issuer is None else [self, *issuer.chain]
        self.certificate = (
            _builder(self.name, above, self.key)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(signs), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, folder: Path, file: str, *uris: str) -> tuple[Path, Path]:
        """Return certificate (with the intermediates above it) and key, PEM files."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        certificate = (
            _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file)]), self.name, key)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode() + "".join(c.pem for c in self.chain)
        (folder / f"{file}.pem").write_text(pem)
        plain = serialization.NoEncryption()
        (folder / f"{file}.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        )
        return folder / f"{file}.pem", folder / f"{file}.key"


def weak() -> OwnCa:
    return OwnCa("weak", key=rsa.generate_private_key(65537, 1024))


def _builder(name: x509.Name, issuer: x509.Name, key) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(_FROM).not_valid_after(_UNTIL)


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def shorten(path: Path, ca: Path, seconds: float) -> None:
    """Sign a certificate anew, as it is but for its end."""
    old = x509.load_pem_x509_certificate(path.read_bytes())
    key = serialization.load_pem_private_key(ca.with_suffix(".key").read_bytes(), None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    pki.write_private(path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
