"""Approval keys and what people sign with them: plain Ed25519, or a passkey whose origin is pinned. Pure.

An approval key is opaque bytes everywhere else: 32 bytes are an Ed25519 public key; anything longer is a packed
`Passkey`. A signature likewise: 64 bytes, or a packed `Assertion`. So sets of approvers, their hashes and the decrees
that carry them need to know nothing of passkeys. Source: W3C Web Authentication Level 3, section 7.2; RFC 9053.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from openkcm.contract import seal
from openkcm.contract.errors import SealError

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_SIGNATURE_BYTES",
    "Assertion",
    "Passkey",
    "challenge_of",
    "read_key",
    "verify",
    "whose",
]

MAX_KEY_BYTES: Final = 1024
MAX_SIGNATURE_BYTES: Final = 4096
KEY_DOMAIN: Final = "openkcm/passkey/1"
ASSERTION_DOMAIN: Final = "openkcm/assertion/1"
CHALLENGE_DOMAIN: Final = "openkcm/challenge/1"
USER_PRESENT: Final = 0x01
USER_VERIFIED: Final = 0x04
RP_HASH_BYTES: Final = 32
FLAGS_AT: Final = 32
MIN_AUTHENTICATOR_DATA: Final = 37


class Passkey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's passkey: its public key, and the one site that it may answer.

    Attributes:
        public_key: ES256: a compressed point, 33 bytes; EdDSA: 32 bytes.
        rp_id: The site's domain, without port.
        origin: Scheme, host and port of the pages that may ask.
        credential: The authenticator's own name for the key.
    """

    algorithm: Literal["ES256", "EdDSA"]
    public_key: Annotated[bytes, Meta(min_length=32, max_length=33)]
    rp_id: Annotated[str, Meta(min_length=1, max_length=253)]
    origin: Annotated[str, Meta(pattern=r"^https?://[a-z0-9.\[\]:-]{1,260}$")]
    credential: Annotated[bytes, Meta(min_length=16, max_length=512)]

    def packed(self) -> bytes:
        """Return the approval key's bytes."""
        return seal.canonical(KEY_DOMAIN, self.algorithm, self.public_key, self.rp_id, self.origin, self.credential)


class Assertion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an authenticator answers: its own data, what the browser put before it, and the signature over both."""

    authenticator_data: Annotated[bytes, Meta(min_length=MIN_AUTHENTICATOR_DATA, max_length=1024)]
    client_data: Annotated[bytes, Meta(min_length=2, max_length=2048)]
    signature: Annotated[bytes, Meta(min_length=8, max_length=96)]

    def packed(self) -> bytes:
        """Return the signature's bytes."""
        return seal.canonical(ASSERTION_DOMAIN, self.authenticator_data, self.client_data, self.signature)


class _ClientData(msgspec.Struct, frozen=True):
    """CollectedClientData; a browser may add members."""

    type: str
    challenge: str
    origin: str
    crossOrigin: bool = False  # noqa: N815 -- the standard's name
    topOrigin: str | None = None  # noqa: N815


def read_key(key: bytes) -> Passkey | None:
    """Return the passkey in an approval key; None for plain Ed25519.

    Raises:
        SealError: It is neither.
    """
    if len(key) == seal.PUBLIC_KEY_BYTES:
        return None
    algorithm, public_key, rp_id, origin, credential = _unpacked(key, KEY_DOMAIN, 5)
    try:
        found = msgspec.convert(
            {
                "algorithm": algorithm.decode(), "public_key": public_key, "rp_id": rp_id.decode(),
                "origin": origin.decode(), "credential": credential,
            },
            Passkey,
        )  # fmt: skip
    except (msgspec.ValidationError, UnicodeDecodeError) as bad:
        raise SealError(f"not an approval key: {bad}") from bad
    if found.packed() != key:
        raise SealError("not an approval key: its bytes are not canonical")
    return found


def whose(key: bytes) -> bytes:
    """Return what makes two approval keys one person's: the bare public key, whatever site it is pinned to.

    Raises:
        SealError: It is no approval key.
    """
    found = read_key(key)
    return key if found is None else found.public_key


def challenge_of(words: bytes) -> bytes:
    """Return the challenge (32 bytes) that a passkey answers to sign these words."""
    return hashlib.sha256(seal.canonical(CHALLENGE_DOMAIN, hashlib.sha256(words).digest())).digest()


def verify(key: bytes, signature: bytes, words: bytes) -> None:
    """Check a person's signature over words.

    For a passkey: (1) the browser says it answered a request to sign in, from the pinned origin and no frame; (2) the
    challenge is the hash of these very words; (3) the authenticator answered the pinned site; (4) a person was there
    and was verified; (5) the signature is the key's over all of that. Counters are not compared: nodes share none.

    Raises:
        SealError: It is not the key's over these words.
    """
    found = read_key(key)
    if found is None:
        seal.verify(key, signature, words)
        return
    authenticator_data, client_data, raw = _unpacked(signature, ASSERTION_DOMAIN, 3)
    try:
        client = msgspec.json.decode(client_data, type=_ClientData)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise SealError("the passkey's answer cannot be read") from bad
    if (client.type, client.origin) != ("webauthn.get", found.origin) or client.crossOrigin or client.topOrigin:  # (1)
        raise SealError("the passkey answered another page")
    wanted = base64.urlsafe_b64encode(challenge_of(words)).rstrip(b"=").decode()
    if client.challenge != wanted:  # (2)
        raise SealError("the passkey answered other words")
    if len(authenticator_data) < MIN_AUTHENTICATOR_DATA:
        raise SealError("the passkey's answer is too short")
    if authenticator_data[:RP_HASH_BYTES] != hashlib.sha256(found.rp_id.encode()).digest():  # (3)
        raise SealError("the passkey answered another site")
    if authenticator_data[FLAGS_AT] & (USER_PRESENT | USER_VERIFIED) != USER_PRESENT | USER_VERIFIED:  # (4)
        raise SealError("the passkey did not verify its person")
    message = authenticator_data + hashlib.sha256(client_data).digest()
    check = seal.verify_p256 if found.algorithm == "ES256" else seal.verify
    check(found.public_key, raw, message)  # (5)


def _unpacked(packed: bytes, domain: str, count: int) -> list[bytes]:
    fields, at = [], 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "big")
        at += 4
        if size > len(packed) - at:
            raise SealError("not an approval key or answer: cut short")
        fields.append(packed[at : at + size])
        at += size
    if len(fields) != count + 1 or fields[0] != domain.encode():
        raise SealError("not an approval key or answer")
    return fields[1:]
