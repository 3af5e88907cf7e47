"""The plain reading of the table: item tree <-> structures, row by row. Slow on purpose; serves nobody, only tests.

The generated readers and writers must agree with this on every structure and every input. It shares the table and the
item tree with them and nothing else.
"""

from __future__ import annotations

from typing import Any

from openkcm.kmip.attributes import ATTRIBUTES, Attribute
from openkcm.kmip.errors import FieldNotValid, MalformedMessage, MessageTooLarge
from openkcm.kmip.schema import Field, Kind, Structure, fields_of
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import Item, ItemType

__all__ = ["from_item", "to_item"]


def from_item(structure: type[Structure], item: Item, minor: int) -> Any:
    """Return the structure that the item's children spell in KMIP 1.`minor`.

    Raises:
        KmipError: They do not.
    """
    if not isinstance(item.value, tuple):
        raise MalformedMessage(f"{structure.__name__} is a structure")
    children = list(item.value)
    if structure is Attribute:
        return _attribute(children, minor)
    values: dict[str, Any] = {}
    for field in fields_of(structure):
        if field.since > minor:
            continue
        found: list[Any] = []
        while children and _kind(field, children[0]) is not None and (field.repeated or not found):
            if len(found) == field.at_most:
                raise MessageTooLarge(f"too many {field.name}")
            found.append(_value(_kind(field, children[0]), children.pop(0), minor))
        if field.repeated:
            values[field.name] = tuple(found)
        elif found:
            values[field.name] = found[0]
        elif not field.optional:
            raise MalformedMessage(f"{field.name} is missing")
    if children:
        raise FieldNotValid(f"{structure.__name__} has no place for {children[0].tag:06X}")
    return structure(**values)


def _kind(field: Field, item: Item) -> Kind | None:
    return next((kind for kind in field.kinds if field.tag == item.tag and kind.wire == item.type), None)


def _value(kind: Kind | None, item: Item, minor: int) -> Any:
    if kind is not None and kind.structure is not None:
        return from_item(kind.structure, item, minor)
    if kind is not None and kind.members is not None and isinstance(item.value, int):
        try:
            return kind.members(item.value)
        except ValueError:
            raise FieldNotValid(f"no member {item.value!r}") from None
    return item.value


def _attribute(children: list[Item], minor: int) -> Attribute:
    shape = [(child.tag, child.type) for child in children]
    name = (Tag.ATTRIBUTE_NAME, ItemType.TEXT_STRING)
    index = (Tag.ATTRIBUTE_INDEX, ItemType.INTEGER)
    if shape[:-1] not in ([name], [name, index]) or shape[-1][0] != Tag.ATTRIBUTE_VALUE:
        raise MalformedMessage("an Attribute is name, index and value")
    text, value = str(children[0].value), children[-1]
    number = children[1].value if len(children) == 3 else None
    rule = ATTRIBUTES.get(text)
    found: Any = value
    if rule is not None:
        if rule.since > minor or value.type != rule.kind.wire:
            raise FieldNotValid(f"no such attribute {text}")
        found = _value(rule.kind, value, minor)
    return Attribute(attribute_name=text, attribute_index=number, attribute_value=found)  # type: ignore[arg-type]


def to_item(value: Structure, tag: int, minor: int) -> Item:
    """Return the item tree of a structure in KMIP 1.`minor`."""
    children: list[Item] = []
    if isinstance(value, Attribute):
        return _attribute_item(value, tag, minor)
    for field in fields_of(type(value)):
        held = getattr(value, field.name)
        if field.since > minor or held is None:
            continue
        for one in held if field.repeated else (held,):
            if isinstance(one, Attribute) and _too_new(one.attribute_name, minor):
                continue
            if field.attribute_name and _too_new(one, minor):
                continue
            children.append(_item(field.kinds, one, field.tag, minor))
    return Item(tag=tag, type=ItemType.STRUCTURE, value=tuple(children))


def _too_new(name: str, minor: int) -> bool:
    return name in ATTRIBUTES and ATTRIBUTES[name].since > minor


def _item(kinds: tuple[Kind, ...], value: Any, tag: int, minor: int) -> Item:
    if isinstance(value, Structure):
        return to_item(value, tag, minor)
    kind = next(kind for kind in kinds if kind.structure is None)
    plain = int(value) if isinstance(value, int) and kind.wire != ItemType.BOOLEAN else value
    return Item(tag=tag, type=kind.wire, value=plain)


def _attribute_item(value: Attribute, tag: int, minor: int) -> Item:
    children = [Item(tag=Tag.ATTRIBUTE_NAME, type=ItemType.TEXT_STRING, value=value.attribute_name)]
    if value.attribute_index is not None:
        children.append(Item(tag=Tag.ATTRIBUTE_INDEX, type=ItemType.INTEGER, value=value.attribute_index))
    held = value.attribute_value
    if not isinstance(held, Item):
        held = _item((ATTRIBUTES[value.attribute_name].kind,), held, Tag.ATTRIBUTE_VALUE, minor)
    return Item(tag=tag, type=ItemType.STRUCTURE, value=(*children, held))
