"""Names of tags, enumerations and mask bits as the text encodings spell them. Facts only: reads no text, no bytes.

Source: KMIP Additional Message Encodings 1.0, sections 3.1 and 4.1 (normalised names). What is read is compared without
regard to case and punctuation, since products differ there; what is written follows the rule.
"""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from typing import Any, Final

from openkcm.kmip import enums
from openkcm.kmip.attributes import ATTRIBUTES
from openkcm.kmip.enums import CryptographicUsageMask, StorageStatusMask
from openkcm.kmip.profile_names import ProfileName
from openkcm.kmip.tags import Tag

__all__ = ["enumeration_of", "mask_of", "member_name", "member_value", "tag_name", "tag_number"]

#: Words that are written in capitals.
_CAPITALS: Final = frozenset(
    re.findall(
        r"\w+",
        """AAD AEAD AES ANSI ANSIX9 B BDK CA CAST5 CBC CCM CFB CMAC CRL CRMF CRT CTR CVK D DEK DES DH DNS DRBG DSA DUKPT
        EC ECB ECDH ECDSA ECMQV FIPS186 G GCM GF HMAC HTTPS ID IDEA IP ISO IV J JSON K KEK KMIP MAC MARS MD2 MD4 MD5
        MGF1 NIST NIST800 NRBG OAEP OFB P PBKDF2 PCBC PEM PGP PIN PKCS PKCS1 PKCS5 PSS Q RC2 RC4 RC5 RIPEMD RNG RSA
        RSASSA SAML SHA SHA1 SHA224 SHA256 SHA384 SHA3 SHA512 SSL3 TCG TDKW TLS TPM TR TTLV URI V1 X X9 XML XOR
        XTS Y""",
    )
)
#: Names that the rule does not reach: a leading digit goes to the end.
_SPELLED: Final = {
    "TRIPLE_DES": "DES3",
    "RE_KEY": "ReKey",
    "RE_KEY_KEY_PAIR": "ReKeyKeyPair",
    "RE_CERTIFY": "ReCertify",
}


def _spelled(name: str) -> str:
    if name in _SPELLED:
        return _SPELLED[name]
    out = ""
    for word in name.split("_"):
        part = word if word in _CAPITALS else word.capitalize()
        out += f"_{part}" if out and part[0].isdigit() else part
    return out


def _plain(text: str) -> str:
    """Return the name without case and punctuation, its leading digits at the end."""
    bare = re.sub(r"[^0-9a-z]", "", text.lower())
    digits = re.match(r"\d*", bare)
    assert digits is not None
    return bare[digits.end() :] + digits.group()


_TAGS: Final = {int(tag): _spelled(tag.name) for tag in Tag}
_TAG_NUMBERS: Final = {spelling: number for number, name in _TAGS.items() for spelling in (name, _plain(name))}

_CLASSES: Final[dict[str, type[IntEnum]]] = {
    _plain(name): found
    for name, found in vars(enums).items()
    if isinstance(found, type) and issubclass(found, IntEnum) and found is not IntEnum
}
_ENUMERATIONS: Final[dict[int, type[IntEnum]]] = {
    **{tag: _CLASSES[_plain(tag.name)] for tag in Tag if _plain(tag.name) in _CLASSES},
    Tag.MASK_GENERATOR_HASHING_ALGORITHM: enums.HashingAlgorithm,
    Tag.PROFILE_NAME: ProfileName,
}
_MASKS: Final[dict[int, type[IntFlag]]] = {
    Tag.CRYPTOGRAPHIC_USAGE_MASK: CryptographicUsageMask,
    Tag.STORAGE_STATUS_MASK: StorageStatusMask,
}
_MEMBERS: Final[dict[Any, dict[str, int]]] = {
    kind: {_plain(_SPELLED.get(name, name)): member.value for name, member in kind.__members__.items()}
    for kind in (*_ENUMERATIONS.values(), *_CLASSES.values(), *_MASKS.values())
}


_LINKS: Final = _MEMBERS[enums.LinkType]
_LINKS.update({f"{name}link": value for name, value in tuple(_LINKS.items())})  # the specification's own names


def tag_name(tag: int) -> str | None:
    """Return the tag's name; None for one that the standard does not have."""
    return _TAGS.get(tag)


def tag_number(name: str) -> int | None:
    """Return the tag of this name."""
    found = _TAG_NUMBERS.get(name)  # as the rule spells it: nearly always
    return _TAG_NUMBERS.get(_plain(name)) if found is None else found


def enumeration_of(tag: int, attribute: str | None) -> type[IntEnum] | None:
    """Return the enumeration of an item: by its tag, for an Attribute Value by the attribute's name."""
    if tag == Tag.ATTRIBUTE_VALUE:
        rule = ATTRIBUTES.get(attribute or "")
        return None if rule is None else rule.kind.members
    return _ENUMERATIONS.get(tag)


def mask_of(tag: int, attribute: str | None) -> type[IntFlag] | None:
    """Return the bits of an Integer that is a mask."""
    if tag == Tag.ATTRIBUTE_VALUE and attribute == "Cryptographic Usage Mask":
        return CryptographicUsageMask
    return _MASKS.get(tag)


def member_name(kind: type[IntEnum | IntFlag], value: int) -> str | None:
    """Return how a member is spelled."""
    try:
        name = kind(value).name
    except ValueError:
        return None
    if name is None:
        return None
    return _spelled(name) + ("Link" if kind is enums.LinkType else "")


def member_value(kind: type[IntEnum | IntFlag], name: str) -> int | None:
    """Return the member of this name."""
    return _MEMBERS[kind].get(_plain(name))
