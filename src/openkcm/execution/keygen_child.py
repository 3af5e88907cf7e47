"""The child that makes an RSA key pair: `python -m openkcm.execution.keygen_child BITS PARENT RNG`. Knows no tenant."""

from __future__ import annotations

import os
import sys

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from openkcm.execution import secretmem, x931

__all__ = ["main"]

EXPONENT = 65537  # FIPS 186-5: odd, above 2^16


def main(bits: int, parent: int, rng: str) -> None:
    """Write length of the public key (4 bytes), public key, private key to stdout, in one piece."""
    secretmem.die_with_parent(parent)
    secretmem.harden_process()
    key = x931.rsa_key(bits) if rng == "ansi-x9.31" else rsa.generate_private_key(EXPONENT, bits)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    private = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    os.write(1, len(public).to_bytes(4, "big") + public + private)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
