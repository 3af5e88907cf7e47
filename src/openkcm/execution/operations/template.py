"""Attributes as clients give them and as the catalogue keeps them. Pure; decides no access, wraps nothing.

Source: KMIP 1.4, section 3 (who may set what) and section 2.1.8 (Template-Attribute).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip import ATTRIBUTES, Attribute, AttributeValue, encode_attributes, is_custom
from openkcm.kmip.enums import CryptographicAlgorithm as Algorithm
from openkcm.kmip.enums import (
    DRBGAlgorithm,
    HashingAlgorithm,
    KeyFormatType,
    ObjectType,
    ResultReason,
    RNGAlgorithm,
    State,
)
from openkcm.kmip.structures import ApplicationSpecificInformation, Digest, Name, RNGParameters, UsageLimits

__all__ = [
    "LEASE_TIME_S",
    "accepted",
    "changed",
    "generators",
    "merged",
    "names_of",
    "new_attributes",
    "numbered",
    "value_of",
]

LEASE_TIME_S: Final = 3600  # advice to who holds an object that was handed out; what is used here needs no lease
#: /dev/urandom of Linux: a ChaCha20 generator, for which the standard has no name.
KERNEL_RNG: Final = RNGParameters(rng_algorithm=RNGAlgorithm.UNSPECIFIED)
#: OpenSSL's, which makes asymmetric keys: CTR_DRBG with AES-256 (NIST SP 800-90A).
LIBRARY_RNG: Final = RNGParameters(
    rng_algorithm=RNGAlgorithm.DRBG,
    cryptographic_algorithm=Algorithm.AES,
    cryptographic_length=256,
    drbg_algorithm=DRBGAlgorithm.CTR,
)
#: `execution.x931`, where a region's limits ask for it.
X931_RNG: Final = RNGParameters(
    rng_algorithm=RNGAlgorithm.ANSI_X9_31, cryptographic_algorithm=Algorithm.AES, cryptographic_length=256
)


def generators(rng: str) -> tuple[RNGParameters, RNGParameters]:
    """Return what makes symmetric keys, and what makes key pairs."""
    return (X931_RNG, X931_RNG) if rng == "ansi-x9.31" else (KERNEL_RNG, LIBRARY_RNG)


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def accepted(attributes: Iterable[Attribute]) -> list[Attribute]:
    """Return the attributes that a client sets on a new object, as they will be kept.

    Raises:
        OperationFailed: One that clients may not set, or one given twice that may occur once.
    """
    seen: Counter[str] = Counter()
    kept: list[Attribute] = []
    for attribute in attributes:
        name, value = attribute.attribute_name, attribute.attribute_value
        seen[name] += 1
        rule = ATTRIBUTES.get(name)
        if rule is None:
            if not is_custom(name) or name.startswith("y-"):
                raise _invalid("an attribute of an unknown name; own ones begin with x-")
        elif not rule.client_sets:
            raise _invalid(f"{name} is set by the server")
        elif seen[name] > 1 and not rule.multiple:
            raise _invalid(f"{name} is given more than once")
        kept.append(replace(attribute, attribute_value=_normal(value)))
    return kept


def _normal(value: AttributeValue) -> AttributeValue:
    """Return the value with what the server adds to it (sections 3.21 and 3.36)."""
    if isinstance(value, UsageLimits):
        if value.usage_limits_total < 0:
            raise _invalid("Usage Limits Total is negative")
        return replace(value, usage_limits_count=value.usage_limits_total)
    if isinstance(value, ApplicationSpecificInformation) and value.application_data is None:
        raise _invalid("no application data is made up here", ResultReason.APPLICATION_NAMESPACE_NOT_SUPPORTED)
    return value


def merged(*layers: Iterable[Attribute]) -> list[Attribute]:
    """Return the attributes of several templates: of each name, the last layer that has it (section 2.1.8)."""
    by_name: dict[str, list[Attribute]] = {}
    for layer in layers:
        fresh: dict[str, list[Attribute]] = {}
        for attribute in layer:
            fresh.setdefault(attribute.attribute_name, []).append(attribute)
        by_name |= fresh
    return [attribute for instances in by_name.values() for attribute in instances]


def value_of(attributes: Iterable[Attribute], name: str) -> Any:
    """Return the value of the first instance, or None."""
    return next((a.attribute_value for a in attributes if a.attribute_name == name), None)


def names_of(attributes: Iterable[Attribute]) -> tuple[str, ...]:
    """Return the values of Name, for the catalogue's index."""
    return tuple(a.attribute_value.name_value for a in attributes if isinstance(a.attribute_value, Name))


def numbered(attributes: Iterable[Attribute]) -> list[Attribute]:
    """Return the attributes with the server's own index on each instance: 0 is left out."""
    seen: Counter[str] = Counter()
    out = []
    for attribute in attributes:
        index = seen[attribute.attribute_name]
        seen[attribute.attribute_name] += 1
        out.append(replace(attribute, attribute_index=index or None))
    return out


def new_attributes(
    uid: str,
    object_type: ObjectType,
    attributes: Iterable[Attribute],
    now_s: int,
    digest: bytes | None,
    format_: int,
    rng: RNGParameters | None,
) -> tuple[State, list[Attribute]]:
    """Return the state of a new object and all its attributes: the client's and the server's.

    Args:
        digest: SHA-256 of the material; None for what may be guessed (secret data), whose digest would help to.
        format_: The key format that the digest was taken of; 0 for what is no key.
        rng: What made the material, when it was made here.
    """
    own = numbered(attributes)
    has = {a.attribute_name for a in own}
    activation = value_of(own, "Activation Date")
    state = State.ACTIVE if activation is not None and activation <= now_s else State.PRE_ACTIVE
    sensitive = value_of(own, "Sensitive") or False
    extractable = value_of(own, "Extractable")
    extractable = True if extractable is None else extractable
    server: dict[str, AttributeValue] = {
        "Unique Identifier": uid,
        "Object Type": object_type,
        "Initial Date": now_s,
        "Last Change Date": now_s,
        "Original Creation Date": now_s,
        "Lease Time": LEASE_TIME_S,
        "Operation Policy Name": "default",
        "Sensitive": sensitive,
        "Always Sensitive": sensitive,
        "Extractable": extractable,
        "Never Extractable": not extractable,
        "Fresh": True,
    }
    if object_type not in STATELESS:
        server["State"] = state
    if rng is not None:
        server["Random Number Generator"] = rng
    if digest is not None:
        key_format = KeyFormatType(format_) if format_ else None
        server["Digest"] = Digest(
            hashing_algorithm=HashingAlgorithm.SHA_256, digest_value=digest, key_format_type=key_format
        )
    added = [Attribute(attribute_name=n, attribute_value=v) for n, v in server.items() if n not in has]
    return state, own + added


STATELESS: Final = frozenset({ObjectType.OPAQUE_OBJECT, ObjectType.TEMPLATE})


def changed(attributes: Iterable[Attribute], values: Mapping[str, AttributeValue]) -> bytes:
    """Return the attributes with single-valued ones set anew, in the codec's bytes."""
    kept = [a for a in attributes if a.attribute_name not in values]
    fresh = [Attribute(attribute_name=name, attribute_value=value) for name, value in values.items()]
    return encode_attributes(kept + fresh)
