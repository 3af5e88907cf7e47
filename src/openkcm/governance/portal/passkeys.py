"""How a person makes a passkey for these pages, and what of it becomes an approval key. Keeps no secret; it has none.

The browser's answer is checked by `webauthn`; what nodes need later is the bare public key with site and origin.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any, Final
from urllib.parse import urlsplit

import webauthn
from webauthn.helpers import exceptions, options_to_json_dict, parse_cbor
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.decode_credential_public_key import (
    DecodedEC2PublicKey,
    DecodedOKPPublicKey,
    decode_credential_public_key,
)
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from openkcm.contract import bodies, seal
from openkcm.contract.errors import SealError
from openkcm.contract.passkey import Passkey
from openkcm.governance.errors import Invalid
from openkcm.governance.portal.requests import Desk

__all__ = ["creation_options", "key_of"]

ALGORITHMS: Final = [COSEAlgorithmIdentifier.ECDSA_SHA_256, COSEAlgorithmIdentifier.EDDSA]
CHALLENGE_S: Final = 300
NAME: Final = "OpenKCM"


def creation_options(desk: Desk, origin: str, person: str) -> dict[str, Any]:
    """Return what `navigator.credentials.create` takes."""
    options = webauthn.generate_registration_options(
        rp_id=_rp_id(origin), rp_name=NAME, user_id=hashlib.sha256(person.encode()).digest(), user_name=person,
        challenge=_challenge(desk, person, int(time.time()) // CHALLENGE_S), supported_pub_key_algs=ALGORITHMS,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
    )  # fmt: skip
    return {"publicKey": options_to_json_dict(options)}


def key_of(desk: Desk, origin: str, person: str, body: bodies.KeyBody) -> bytes:
    """Return the approval key that was offered.

    Raises:
        Invalid: Neither or both kinds, or not what the browser made for this site and person just now.
    """
    if (body.ed25519 is None) == (body.credential is None):
        raise Invalid("offer ed25519 or credential, one of the two")
    if body.ed25519 is not None:
        return body.ed25519
    now = int(time.time()) // CHALLENGE_S
    problem: Exception | None = None
    for period in (now, now - 1):
        try:
            made = webauthn.verify_registration_response(
                credential=json.dumps(body.credential), expected_challenge=_challenge(desk, person, period),
                expected_rp_id=_rp_id(origin), expected_origin=origin, require_user_verification=True,
                supported_pub_key_algs=ALGORITHMS,
            )  # fmt: skip
            return _packed(made.credential_public_key, made.credential_id, origin)
        except (exceptions.WebAuthnException, SealError, ValueError, TypeError, KeyError) as bad:
            problem = bad
    raise Invalid(f"credential: {str(problem)[:200]}") from problem


def _packed(cose: bytes, credential: bytes, origin: str) -> bytes:
    parse_cbor(cose)
    key = decode_credential_public_key(cose)
    where = {"rp_id": _rp_id(origin), "origin": origin, "credential": credential}
    if isinstance(key, DecodedEC2PublicKey):
        point = bytes([2 + (key.y[-1] & 1)]) + key.x
        return Passkey(algorithm="ES256", public_key=point, **where).packed()  # type: ignore[arg-type]
    if isinstance(key, DecodedOKPPublicKey) and len(key.x) == seal.PUBLIC_KEY_BYTES:
        return Passkey(algorithm="EdDSA", public_key=key.x, **where).packed()  # type: ignore[arg-type]
    raise ValueError("neither ES256 nor EdDSA")


def _rp_id(origin: str) -> str:
    return urlsplit(origin).hostname or ""


def _challenge(desk: Desk, person: str, period: int) -> bytes:
    """A challenge for one person and a few minutes, that nothing need be kept for."""
    secret = desk.challenge_secret
    return hmac.new(secret, f"{person}/{period}".encode(), hashlib.sha256).digest()
