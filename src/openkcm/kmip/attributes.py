"""Attributes of KMIP 1.x: name, index, value, with the rules of each name. Decides no permission, stores nothing.

A value is the Python value of its name's type (`ATTRIBUTES`): str, int, bool, bytes, an enumeration's member or a
Structure. Custom attributes (`x-` of clients, `y-` of servers) and names unknown here keep the wire type beside the
value, as an `Item`. Towards an older version, attributes that it does not have are left out; from one they are refused.

Source: KMIP 1.4 specification, section 3 and the rule table that opens each attribute's section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from openkcm.kmip import enums, structures
from openkcm.kmip.errors import FieldNotValid, MalformedMessage, MessageTooLarge, NotEncodable
from openkcm.kmip.generate import HANDWRITTEN, NAME_SINCE, Reader, Writer, reader, writer
from openkcm.kmip.schema import NEWEST_MINOR, DateTime, Interval, Kind, Structure, kind_of
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import MAX_ITEMS, Item, ItemType, Value, read_item, read_leaf, write_item, write_leaf

__all__ = [
    "ATTRIBUTES",
    "Attribute",
    "AttributeRule",
    "AttributeValue",
    "custom_attribute",
    "decode_attributes",
    "encode_attributes",
    "is_custom",
    "known_in",
]

AttributeValue = str | int | bool | bytes | Structure | Item


class Attribute(Structure, frozen=True, kw_only=True):
    """One instance of an attribute (section 2.1.1).

    Attributes:
        attribute_index: Which instance of a repeatable attribute; None stands for 0.
    """

    attribute_name: str
    attribute_index: int | None = None
    attribute_value: AttributeValue


class AttributeRule(msgspec.Struct, frozen=True, kw_only=True):
    """What the specification says of one attribute name.

    Attributes:
        since: The minor version of KMIP 1 that brought it.
        multiple: May have several instances.
        client_sets, server_sets: Who may set it when the object is made (or by Add Attribute).
        client_modifies, server_modifies, client_deletes: What may happen later; the object's state can forbid more.
    """

    name: str
    kind: Kind
    since: int
    multiple: bool
    client_sets: bool
    server_sets: bool
    client_modifies: bool
    server_modifies: bool
    client_deletes: bool


# name, type, since, rules: n = several instances; c, s = set by client, server; m, M = modified by client, server;
# d = deleted by the client
_ROWS: Final[tuple[tuple[str, Any, int, str], ...]] = (
    ("Unique Identifier", str, 0, "s"),
    ("Name", structures.Name, 0, "n c mM d"),
    ("Object Type", enums.ObjectType, 0, "s"),
    ("Cryptographic Algorithm", enums.CryptographicAlgorithm, 0, "cs"),
    ("Cryptographic Length", int, 0, "cs"),
    ("Cryptographic Parameters", structures.CryptographicParameters, 0, "n c m d"),
    ("Cryptographic Domain Parameters", structures.CryptographicDomainParameters, 0, "c"),
    ("Certificate Type", enums.CertificateType, 0, "s"),
    ("Certificate Length", int, 1, "s"),
    ("X.509 Certificate Identifier", structures.X509CertificateIdentifier, 1, "s"),
    ("X.509 Certificate Subject", structures.X509CertificateSubject, 1, "s"),
    ("X.509 Certificate Issuer", structures.X509CertificateIssuer, 1, "s"),
    ("Certificate Identifier", structures.CertificateIdentifier, 0, "s"),
    ("Certificate Subject", structures.CertificateSubject, 0, "s"),
    ("Certificate Issuer", structures.CertificateIssuer, 0, "s"),
    ("Digital Signature Algorithm", enums.DigitalSignatureAlgorithm, 1, "n s"),
    ("Digest", structures.Digest, 0, "n s"),
    ("Operation Policy Name", str, 0, "cs M"),
    ("Cryptographic Usage Mask", int, 0, "cs M"),
    ("Lease Time", Interval, 0, "s M"),
    ("Usage Limits", structures.UsageLimits, 0, "cs mM d"),
    ("State", enums.State, 0, "s M"),
    ("Initial Date", DateTime, 0, "s"),
    ("Activation Date", DateTime, 0, "cs mM"),
    ("Process Start Date", DateTime, 0, "cs mM"),
    ("Protect Stop Date", DateTime, 0, "cs mM"),
    ("Deactivation Date", DateTime, 0, "cs mM"),
    ("Destroy Date", DateTime, 0, "s"),
    ("Compromise Occurrence Date", DateTime, 0, "s"),
    ("Compromise Date", DateTime, 0, "s"),
    ("Revocation Reason", structures.RevocationReason, 0, "s M"),
    ("Archive Date", DateTime, 0, "s M"),
    ("Object Group", str, 0, "n cs m d"),
    ("Fresh", bool, 1, "cs M"),
    ("Link", structures.Link, 0, "n cs mM d"),
    ("Application Specific Information", structures.ApplicationSpecificInformation, 0, "n cs mM d"),
    ("Contact Information", str, 0, "cs mM d"),
    ("Last Change Date", DateTime, 0, "s M"),
    ("Alternative Name", structures.AlternativeName, 2, "n c mM d"),
    ("Key Value Present", bool, 2, "s"),
    ("Key Value Location", structures.KeyValueLocation, 2, "n c m d"),
    ("Original Creation Date", DateTime, 2, "cs"),
    ("Random Number Generator", structures.RNGParameters, 3, "cs"),
    ("PKCS#12 Friendly Name", str, 4, "c m d"),
    ("Description", str, 4, "c m d"),
    ("Comment", str, 4, "c m d"),
    ("Sensitive", bool, 4, "cs mM"),
    ("Always Sensitive", bool, 4, "s M"),
    ("Extractable", bool, 4, "cs mM"),
    ("Never Extractable", bool, 4, "s M"),
)

ATTRIBUTES: Final[dict[str, AttributeRule]] = {
    name: AttributeRule(
        name=name,
        kind=kind_of(hint),
        since=since,
        multiple="n" in rules,
        client_sets="c" in rules,
        server_sets="s" in rules,
        client_modifies="m" in rules,
        server_modifies="M" in rules,
        client_deletes="d" in rules,
    )
    for name, hint, since, rules in _ROWS
}


def is_custom(name: str) -> bool:
    """Whether the name is a client's (`x-`) or a server's (`y-`) own (section 3.45)."""
    return name.startswith(("x-", "y-"))


def known_in(name: str, minor: int) -> bool:
    """Whether KMIP 1.`minor` has an attribute of this name; custom names are in every version."""
    rule = ATTRIBUTES.get(name)
    return is_custom(name) if rule is None else rule.since <= minor


def custom_attribute(name: str, kind: ItemType, value: Value, index: int | None = None) -> Attribute:
    """Return a custom attribute, whose type its name does not tell."""
    item = Item(tag=Tag.ATTRIBUTE_VALUE, type=kind, value=value)
    return Attribute(attribute_name=name, attribute_index=index, attribute_value=item)


_HEAD = struct.Struct(">II")
_NAME: Final = Tag.ATTRIBUTE_NAME << 8 | ItemType.TEXT_STRING
_INDEX: Final = Tag.ATTRIBUTE_INDEX << 8 | ItemType.INTEGER
_VALUE: Final = Tag.ATTRIBUTE_VALUE << 8


def _read_one(data: bytes, offset: int, end: int) -> tuple[int, int, int, int]:
    """Return (header, start of the value, its end, start of the next item); nothing reaches beyond `end`."""
    if offset >= end:
        raise MalformedMessage("an Attribute without name or value")
    header, length = _HEAD.unpack_from(data, offset)
    start = offset + 8
    if start + (length + 7 & -8) > end:
        raise MalformedMessage("an item is longer than the Attribute around it")
    return header, start, start + length, start + (length + 7 & -8)


def _make_reader(minor: int) -> Reader:
    """Return the reader of an Attribute for KMIP 1.`minor`."""

    def read(data: bytes, start: int, end: int) -> Attribute:
        header, value, stop, offset = _read_one(data, start, end)
        if header != _NAME:
            raise MalformedMessage("an Attribute does not begin with its name")
        name = str(read_leaf(ItemType.TEXT_STRING, data[value:stop]))
        index: int | None = None
        first = offset
        header, value, stop, offset = _read_one(data, offset, end)
        if header == _INDEX:
            index = int(read_leaf(ItemType.INTEGER, data[value:stop]))
            first = offset
            header, value, stop, offset = _read_one(data, offset, end)
        if header & ~0xFF != _VALUE or offset != end:
            raise MalformedMessage("an Attribute is name, index and value")
        rule = ATTRIBUTES.get(name)
        if rule is None:
            item = read_item(data[first:end])
            return Attribute(attribute_name=name, attribute_index=index, attribute_value=item)
        if rule.since > minor:
            raise FieldNotValid(f"the attribute {name} came with KMIP 1.{rule.since}, the message is 1.{minor}")
        kind = rule.kind
        if header & 0xFF != kind.wire:
            raise FieldNotValid(f"the attribute {name} is a {kind.wire.name}")
        if kind.structure is not None:
            found: AttributeValue = reader(kind.structure, minor)(data, value, _aligned(value, stop))
        else:
            found = read_leaf(kind.wire, data[value:stop])
            if kind.members is not None:
                found = _member(rule, found)
        return Attribute(attribute_name=name, attribute_index=index, attribute_value=found)

    return read


def _aligned(start: int, stop: int) -> int:
    if (stop - start) % 8:
        raise MalformedMessage("an Attribute Value whose length is not a multiple of 8")
    return stop


def _member(rule: AttributeRule, value: object) -> int:
    members = rule.kind.members
    if members is None or not isinstance(value, int):
        raise FieldNotValid(f"the attribute {rule.name} is no enumeration")
    try:
        return members(value)
    except ValueError:
        raise FieldNotValid(f"the attribute {rule.name} has no value 0x{value:08X}") from None


def _make_writer(minor: int) -> Writer:
    """Return the writer of an Attribute for KMIP 1.`minor`; an attribute newer than that is written as nothing."""

    def write(x: Attribute) -> bytes:
        rule = ATTRIBUTES.get(x.attribute_name)
        if rule is not None and rule.since > minor:
            return b""
        name = write_leaf(ItemType.TEXT_STRING, x.attribute_name)
        parts = [_HEAD.pack(_NAME, len(name)), name, bytes(-len(name) % 8)]
        if x.attribute_index is not None:
            parts += [_HEAD.pack(_INDEX, 4), write_leaf(ItemType.INTEGER, x.attribute_index), bytes(4)]
        value = x.attribute_value
        if rule is None:
            if not isinstance(value, Item) or value.tag != Tag.ATTRIBUTE_VALUE:
                raise NotEncodable("a custom attribute's value is an Item tagged Attribute Value")
            parts.append(write_item(value))
            return b"".join(parts)
        kind = rule.kind
        if kind.structure is not None:
            if type(value) is not kind.structure:
                raise NotEncodable(f"the attribute {rule.name} is a {kind.structure.__name__}")
            raw = writer(kind.structure, minor)(value)
        else:
            raw = write_leaf(kind.wire, value)
        parts += [_HEAD.pack(_VALUE | kind.wire, len(raw)), raw, bytes(-len(raw) % 8)]
        return b"".join(parts)

    return write


HANDWRITTEN[Attribute] = (_make_reader, _make_writer)
NAME_SINCE.update({name: rule.since for name, rule in ATTRIBUTES.items()})

_ATTRIBUTE: Final = Tag.ATTRIBUTE << 8 | ItemType.STRUCTURE


def encode_attributes(attributes: Iterable[Attribute]) -> bytes:
    """Return the attributes as the object catalogue stores them: a row of Attribute items in KMIP 1.4.

    Raises:
        NotEncodable: A value that is not of its name's type.
    """
    write = writer(Attribute, NEWEST_MINOR)
    parts: list[bytes] = []
    try:
        for attribute in attributes:
            raw = write(attribute)
            parts += [_HEAD.pack(_ATTRIBUTE, len(raw)), raw]
    except (struct.error, TypeError, AttributeError, UnicodeEncodeError) as bad:
        raise NotEncodable(f"an attribute: {bad}") from bad
    return b"".join(parts)


def _wanted(data: bytes, start: int, end: int, only: frozenset[str]) -> bool:
    if end - start < 8:
        raise MalformedMessage("an Attribute without name or value")
    _, length = _HEAD.unpack_from(data, start)
    name = data[start + 8 : start + 8 + length].decode()
    return name in only or is_custom(name)


def decode_attributes(data: bytes, only: frozenset[str] | None = None) -> tuple[Attribute, ...]:
    """Return the attributes that `encode_attributes` wrote.

    Args:
        only: Names; besides them come custom attributes. The values of all others are not looked at.

    Raises:
        KmipError: The bytes are not a row of well-formed attributes.
    """
    read = reader(Attribute, NEWEST_MINOR)
    if len(data) % 8:
        raise MalformedMessage(f"attributes in {len(data)} bytes: not a multiple of 8")
    found: list[Attribute] = []
    offset = 0
    while offset < len(data):
        header, start, stop, offset = _read_one(data, offset, len(data))
        if header != _ATTRIBUTE:
            raise MalformedMessage("something else among the attributes")
        if len(found) == MAX_ITEMS:
            raise MessageTooLarge(f"more than {MAX_ITEMS} attributes")
        try:
            if only is None or _wanted(data, start, stop, only):
                found.append(read(data, start, _aligned(start, stop)))
        except UnicodeDecodeError:
            raise MalformedMessage("a Text String that is not UTF-8") from None
    return tuple(found)
