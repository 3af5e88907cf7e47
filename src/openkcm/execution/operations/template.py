"""Attributes as clients give them and as the catalogue keeps them. Pure; decides no access, wraps nothing.

Source: KMIP 1.4, section 3 (who may set what) and section 2.1.8 (Template-Attribute).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip import ATTRIBUTES, Attribute, AttributeValue, encode_attributes, is_custom
from openkcm.kmip.enums import HashingAlgorithm, KeyFormatType, ObjectType, ResultReason, State
from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.structures import Digest, Name

__all__ = ["changed", "given", "names_of", "new_attributes", "numbered", "value_of"]

#: Attributes whose promise this server does not keep yet: refused rather than ignored.
NOT_KEPT: Final = frozenset({"Usage Limits", "Lease Time", "Cryptographic Domain Parameters"})


def _invalid(message: str) -> OperationFailed:
    return OperationFailed(ResultReason.INVALID_FIELD, message)


def given(template: TemplateAttribute) -> list[Attribute]:
    """Return the attributes that a client sets on a new object.

    Raises:
        OperationFailed: A template by name (there are none), one that clients may not set, one given twice that may
            occur once, or one whose promise is not kept here.
    """
    if template.name:
        raise OperationFailed(ResultReason.ITEM_NOT_FOUND, "there are no templates here")
    seen: Counter[str] = Counter()
    for attribute in template.attribute:
        name = attribute.attribute_name
        seen[name] += 1
        rule = ATTRIBUTES.get(name)
        if rule is None:
            if not is_custom(name) or name.startswith("y-"):
                raise _invalid("an attribute of an unknown name; own ones begin with x-")
            continue
        if not rule.client_sets:
            raise _invalid(f"{name} is set by the server")
        if name in NOT_KEPT:
            raise OperationFailed(ResultReason.FEATURE_NOT_SUPPORTED, f"{name} is not enforced here, so not accepted")
        if seen[name] > 1 and not rule.multiple:
            raise _invalid(f"{name} is given more than once")
    return list(template.attribute)


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
        out.append(
            Attribute(
                attribute_name=attribute.attribute_name,
                attribute_index=index or None,
                attribute_value=attribute.attribute_value,
            )
        )
    return out


def new_attributes(
    uid: str, object_type: ObjectType, attributes: Iterable[Attribute], now_s: int, digest: bytes | None, format_: int
) -> tuple[State, list[Attribute]]:
    """Return the state of a new object and all its attributes: the client's and the server's.

    Args:
        digest: SHA-256 of the material; None for what may be guessed (secret data), whose digest would help to.
        format_: The key format that the digest was taken of; 0 for what is no key.
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
        "Sensitive": sensitive,
        "Always Sensitive": sensitive,
        "Extractable": extractable,
        "Never Extractable": not extractable,
        "Fresh": True,
    }
    if object_type != ObjectType.OPAQUE_OBJECT:
        server["State"] = state
    if digest is not None:
        key_format = KeyFormatType(format_) if format_ else None
        server["Digest"] = Digest(
            hashing_algorithm=HashingAlgorithm.SHA_256, digest_value=digest, key_format_type=key_format
        )
    added = [Attribute(attribute_name=n, attribute_value=v) for n, v in server.items() if n not in has]
    return state, own + added


def changed(attributes: Iterable[Attribute], values: Mapping[str, AttributeValue]) -> bytes:
    """Return the attributes with single-valued ones set anew, in the codec's bytes."""
    kept = [a for a in attributes if a.attribute_name not in values]
    fresh = [Attribute(attribute_name=name, attribute_value=value) for name, value in values.items()]
    return encode_attributes(kept + fresh)
