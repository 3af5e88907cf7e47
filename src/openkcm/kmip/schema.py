"""The table behind the codec: a structure is a Struct whose annotations are its fields. Pure; reads no bytes itself.

A field's name is its tag's name in lower case, its annotation the rest:

    str, bytes, bool, int        Text String, Byte String, Boolean, Integer
    LongInteger, BigInteger, DateTime, Interval, Enumeration, AnyStructure     the other types, all `int` but the last
    an IntEnum class             Enumeration, limited to its members
    a Structure class            that structure
    X | None                     optional;  tuple[X, ...]  repeated, maybe empty;  X | Y  told apart by the wire type
    Since13[X], Until12[X]       only from, only up to that minor version of KMIP 1

Fields are written and expected in the order of the class, as KMIP 1.x requires.
"""

from __future__ import annotations

import types
from enum import IntEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import MAX_ITEMS, Item, ItemType

__all__ = [
    "NEWEST_MINOR",
    "AnyStructure",
    "AttributeNameText",
    "BigInteger",
    "DateTime",
    "Enumeration",
    "Field",
    "Interval",
    "Kind",
    "LongInteger",
    "Many",
    "Since11",
    "Since12",
    "Since13",
    "Since14",
    "Structure",
    "fields_of",
    "kind_of",
]

NEWEST_MINOR: Final = 4
T = TypeVar("T")


class _Wire(msgspec.Struct, frozen=True):
    """Mark: travels as this type."""

    type: ItemType


class _Since(msgspec.Struct, frozen=True):
    """Mark: a field of KMIP 1.`minor` and later."""

    minor: int


class _AttributeName(msgspec.Struct, frozen=True):
    """Mark: the name of an attribute, left out towards a version that does not have that attribute."""


class _AtMost(msgspec.Struct, frozen=True):
    """Mark: may occur this often instead of MAX_ITEMS."""

    count: int


LongInteger = Annotated[int, _Wire(ItemType.LONG_INTEGER)]
BigInteger = Annotated[int, _Wire(ItemType.BIG_INTEGER)]
DateTime = Annotated[int, _Wire(ItemType.DATE_TIME)]  # seconds since 1970 in UTC
Interval = Annotated[int, _Wire(ItemType.INTERVAL)]  # seconds
Enumeration = Annotated[int, _Wire(ItemType.ENUMERATION)]  # open: vendor values and those of later versions pass
AnyStructure = Annotated[tuple[Item, ...], _Wire(ItemType.STRUCTURE)]  # contents without a schema
AttributeNameText = Annotated[str, _AttributeName()]
Since11 = Annotated[T, _Since(1)]
Since12 = Annotated[T, _Since(2)]
Since13 = Annotated[T, _Since(3)]
Since14 = Annotated[T, _Since(4)]
Many = Annotated[tuple[T, ...], _AtMost(1 << 20)]  # an answer that lists objects; the message's size bounds it


class Structure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A KMIP structure. Values are compared by content and never shown: bytes and hidden fields print as their size."""

    memoised: ClassVar[bool] = False
    """Small and repeated by every client: readers remember it by its bytes."""
    hidden: ClassVar[frozenset[str]] = frozenset()
    """Fields whose values are secrets although they are no bytes."""

    def __repr__(self) -> str:
        """Name the fields that are set, without what may be a key, a plaintext or a password."""
        shown = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None or value == ():
                continue
            if isinstance(value, bytes):
                text = f"<{len(value)} bytes>"
            else:
                text = "<hidden>" if name in self.hidden else repr(value)
            shown.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What one occurrence of a field may be.

    Attributes:
        wire: The type of the item.
        structure: For a structure with a schema, its class.
        members: For a closed enumeration, its class.
    """

    wire: ItemType
    structure: type[Structure] | None = None
    members: type[IntEnum] | None = None


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    tag: Tag
    kinds: tuple[Kind, ...]
    optional: bool
    repeated: bool
    since: int = 0
    at_most: int = MAX_ITEMS
    attribute_name: bool = False


_PLAIN: Final[dict[object, ItemType]] = {
    str: ItemType.TEXT_STRING,
    bytes: ItemType.BYTE_STRING,
    bool: ItemType.BOOLEAN,
    int: ItemType.INTEGER,
}


def _strip(hint: Any, marks: list[Any]) -> Any:
    """Return the hint without its Annotated layers, whose marks are added to `marks`."""
    while get_origin(hint) is Annotated:
        marks.extend(hint.__metadata__)
        hint = hint.__origin__
    return hint


def kind_of(hint: Any) -> Kind:
    """Return what an annotation without None, tuple and union stands for.

    Raises:
        TypeError: No KMIP type.
    """
    marks: list[Any] = []
    bare = _strip(hint, marks)
    for mark in marks:
        if isinstance(mark, _Wire):
            return Kind(wire=mark.type)
    if bare in _PLAIN:
        return Kind(wire=_PLAIN[bare])
    if isinstance(bare, type) and issubclass(bare, IntEnum):
        return Kind(wire=ItemType.ENUMERATION, members=bare)
    if isinstance(bare, type) and issubclass(bare, Structure):
        return Kind(wire=ItemType.STRUCTURE, structure=bare)
    raise TypeError(f"{hint!r} is no KMIP type")


def _field(name: str, hint: Any) -> Field:
    marks: list[Any] = []
    bare = _strip(hint, marks)
    union = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (hint,)
    parts = [part for part in union if part is not types.NoneType]
    repeated = get_origin(bare) is tuple and not any(isinstance(mark, _Wire) for mark in marks)
    if repeated:
        parts = [get_args(bare)[0]]
    for part in parts:
        _strip(part, marks)
    return Field(
        name=name,
        tag=Tag[name.upper()],
        kinds=tuple(kind_of(part) for part in parts),
        optional=len(parts) < len(union),
        repeated=repeated,
        since=max((mark.minor for mark in marks if isinstance(mark, _Since)), default=0),
        at_most=max((mark.count for mark in marks if isinstance(mark, _AtMost)), default=MAX_ITEMS),
        attribute_name=any(isinstance(mark, _AttributeName) for mark in marks),
    )


@cache
def fields_of(structure: type[Structure]) -> tuple[Field, ...]:
    """Return the rows of one structure, all versions', in the order of the wire.

    Raises:
        TypeError, KeyError: An annotation or a name outside the grammar above; found at import.
    """
    hints = get_type_hints(structure, include_extras=True)
    return tuple(_field(name, hints[name]) for name in structure.__struct_fields__)
