"""By what Locate finds objects without reading all of a system's: terms of a record, and its state. Pure.

A term is a hash of system, attribute and value: equal for the object that has the value and for the request that asks
for it. The index only narrows: what it finds is compared with the whole request afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from openkcm.execution.records import ObjectRecord
from openkcm.kmip import Attribute, KmipError, decode_attributes, encode_attributes
from openkcm.kmip.enums import State
from openkcm.kmip.structures import Name
from openkcm.kmip.ttlv import Item

__all__ = ["DATED", "SHIFTS", "best_term", "index_of", "may_shift", "name_term"]

#: Attributes that change what an object may be used for as time goes by.
DATED: Final = frozenset({"Activation Date", "Deactivation Date", "Process Start Date", "Protect Stop Date"})
#: Attributes that tell objects apart, the most telling first behind Name; custom ones come last.
TELLING: Final = ("Application Specific Information", "Link", "Object Group")
CUSTOM: Final = ("x-", "y-")
TERM_BYTES: Final = 16
_INDEXED: Final = DATED.union(TELLING)
SHIFTS: Final = -1  # found as no state, but by whoever asks for any: a date may have moved it


def _is_custom(attribute: Attribute) -> bool:
    """Whether it is a client's own: its value is an item, of which the type is a part."""
    return attribute.attribute_name.startswith(CUSTOM) and isinstance(attribute.attribute_value, Item)


def _hash(tenant: str, registration: str, raw: bytes) -> bytes:
    return hashlib.sha256(f"{tenant}/{registration}/".encode() + raw).digest()[:TERM_BYTES]  # no slash is in a token


def name_term(tenant: str, registration: str, name: str) -> bytes:
    """Return the term of an object's name, whatever the name's type."""
    return _hash(tenant, registration, b"Name/" + name.encode())


def _term(tenant: str, registration: str, attribute: Attribute) -> bytes:
    bare = Attribute(attribute_name=attribute.attribute_name, attribute_value=attribute.attribute_value)
    return _hash(tenant, registration, encode_attributes((bare,)))


def may_shift(state: int, names: Iterable[str]) -> bool:
    """Whether a date can still make a difference; one that only says when the object became active cannot."""
    dates = DATED.intersection(names)
    return bool(dates - {"Activation Date"}) or (bool(dates) and state == State.PRE_ACTIVE)


def index_of(tenant: str, record: ObjectRecord) -> tuple[set[bytes], int]:
    """Return a record's terms, and the state that it is found as; of one that cannot be read only its names."""
    system = (tenant, record.registration)
    found = {name_term(*system, name) for name in record.names}
    try:
        attributes = decode_attributes(record.attributes, _INDEXED)
        found |= {_term(*system, a) for a in attributes if a.attribute_name in TELLING or _is_custom(a)}
    except KmipError:
        return found, SHIFTS
    shifts = may_shift(record.state, (a.attribute_name for a in attributes))
    return found, SHIFTS if shifts else record.state


def best_term(tenant: str, registration: str, asked: Sequence[Attribute]) -> bytes | None:
    """Return the term that narrows a request the most; None when nothing it asks for is indexed.

    Raises:
        KmipError: A value that no object can have.
    """
    for a in asked:
        if isinstance(a.attribute_value, Name):
            return name_term(tenant, registration, a.attribute_value.name_value)
    telling = [a for name in TELLING for a in asked if a.attribute_name == name]
    best = next((a for a in (*telling, *filter(_is_custom, asked))), None)
    return None if best is None else _term(tenant, registration, best)
