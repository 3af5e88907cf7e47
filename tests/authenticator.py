"""A passkey in software: what a security key answers, and every way in which an answer can be wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from openkcm.contract import passkey

ORIGIN = "http://localhost:5690"
RP_ID = "localhost"


class Authenticator:
    def __init__(self, algorithm: str = "ES256", *, origin: str = ORIGIN, rp_id: str = RP_ID) -> None:
        self.algorithm, self.origin, self.rp_id = algorithm, origin, rp_id
        self.credential = os.urandom(32)
        if algorithm == "ES256":
            self.private: Any = ec.generate_private_key(ec.SECP256R1())
            public = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        else:
            self.private = Ed25519PrivateKey.generate()
            public = self.private.public_key().public_bytes_raw()
        self.passkey = passkey.Passkey(
            algorithm=algorithm, public_key=public, rp_id=rp_id, origin=origin, credential=self.credential  # type: ignore[arg-type]
        )  # fmt: skip
        self.key = self.public_key = self.passkey.packed()

    def assertion(
        self, words: bytes, *, origin: str | None = None, rp_id: str | None = None, flags: int = 0x05, **client: Any
    ) -> passkey.Assertion:
        challenge = base64.urlsafe_b64encode(passkey.challenge_of(words)).rstrip(b"=").decode()
        said = {"type": "webauthn.get", "challenge": challenge, "origin": origin or self.origin, "crossOrigin": False}
        data = json.dumps({**said, **client}).encode()
        own = hashlib.sha256((rp_id or self.rp_id).encode()).digest() + bytes([flags]) + (7).to_bytes(4, "big")
        message = own + hashlib.sha256(data).digest()
        raw = (
            self.private.sign(message, ec.ECDSA(hashes.SHA256()))
            if self.algorithm == "ES256"
            else self.private.sign(message)
        )
        return passkey.Assertion(authenticator_data=own, client_data=data, signature=raw)

    def sign(self, words: bytes, **wrong: Any) -> bytes:
        return self.assertion(words, **wrong).packed()
