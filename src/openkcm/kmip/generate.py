"""Readers and writers as straight-line source, made from the table in `schema`. Knows no payload and no attribute.

For each structure and each set of fields that some version gives it, one reader and one writer are compiled at their
first use and kept. A reader takes (data, start, end) of a structure's contents, where start..end lies inside `data` and
is a multiple of 8 long; it never looks beyond `end`, so a nested structure cannot read over its parent. A writer
returns the contents. Generated source is built from names and numbers of the table alone, never from input.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NoReturn

from openkcm.kmip.errors import FieldNotValid, MalformedMessage, MessageTooLarge, NotEncodable
from openkcm.kmip.schema import NEWEST_MINOR, Field, Kind, Structure, fields_of
from openkcm.kmip.ttlv import FIXED_LENGTHS, MAX_TEXT_BYTES, ItemType, read_items, read_leaf, write_item, write_leaf

__all__ = ["HANDWRITTEN", "NAME_SINCE", "Reader", "Writer", "reader", "writer"]

Reader = Callable[[bytes, int, int], Any]
Writer = Callable[[Any], bytes]

HANDWRITTEN: Final[dict[type[Structure], tuple[Callable[[int], Reader], Callable[[int], Writer]]]] = {}
"""Structures that no table describes; makers of their reader and writer for a minor version."""
NAME_SINCE: Final[dict[str, int]] = {}
"""Attribute name -> the minor version of KMIP 1 that brought it. Filled, like HANDWRITTEN, by `attributes`."""

MAX_MEMO_ENTRIES: Final = 256  # clients of one workload use a handful; a hostile one can only make us forget
MAX_MEMO_BYTES: Final = 256  # the largest parameters in use are 144 bytes

_MISSING: Final = "h = -1"  # no header is negative, so the sentinel equals no field's


def _overrun(name: str) -> NoReturn:
    raise MalformedMessage(f"{name} is longer than the structure around it, or has a length its type cannot have")


def _too_much(name: str) -> NoReturn:
    raise MessageTooLarge(f"{name} is over its limit of size or number")


def _missing(name: str) -> NoReturn:
    raise MalformedMessage(f"{name} is missing")


def _unwritable(name: str) -> NoReturn:
    raise NotEncodable(f"{name} must be there and is an attribute that this version does not have")


def _not_member(name: str, value: int) -> NoReturn:
    raise FieldNotValid(f"{name} has no value 0x{value:08X}")


def _boolean(name: str) -> NoReturn:
    raise MalformedMessage(f"{name} is a Boolean that is neither 0 nor 1")


def unexpected(structure: type[Structure], minor: int, header: int) -> NoReturn:
    """Refuse an item that no field was waiting for.

    Raises:
        MalformedMessage: A field of this structure, but misplaced, repeated or of a wrong type.
        FieldNotValid: No field of this structure in this version.
    """
    for field in fields_of(structure):
        if field.tag == header >> 8 and field.since <= minor:
            raise MalformedMessage(f"{structure.__name__}.{field.name} is misplaced, repeated or of a wrong type")
    raise FieldNotValid(f"{structure.__name__} has no field {header >> 8:06X} in KMIP 1.{minor}")


_put_head = struct.Struct(">II").pack
_PAD: Final = tuple(bytes(-size % 8) for size in range(8))
_STRINGS: Final = frozenset({ItemType.TEXT_STRING, ItemType.BYTE_STRING})


Shapes = dict[tuple[int, ...], tuple[bytes, ...]]


def _shape(shapes: Shapes, heads: tuple[int, ...], *lengths: int) -> tuple[bytes, ...]:
    """Return what stands before, between and after strings of these lengths (-1: left out), and remember it."""
    found, padding = [], b""
    for header, n in zip(heads, lengths, strict=True):
        found.append(padding + (b"" if n < 0 else _put_head(header, n)))
        padding = b"" if n < 0 else _PAD[n & 7]
    if len(shapes) >= MAX_MEMO_ENTRIES:
        shapes.clear()
    shapes[lengths] = (*found, padding)
    return shapes[lengths]


def _remember(lead: dict[bytes, tuple[object, object]], last: list[int], raw: bytes, *values: object) -> None:
    if len(raw) <= MAX_MEMO_BYTES and None not in values:  # the next field may then be neither of these two
        if len(lead) >= MAX_MEMO_ENTRIES:
            lead.clear()
        lead[raw], last[0] = values, len(raw)  # type: ignore[assignment]  # two values


_RUNTIME: Final[dict[str, object]] = {
    "head": struct.Struct(">II").unpack_from,
    "s32": struct.Struct(">i").unpack_from,
    "u32": struct.Struct(">I").unpack_from,
    "s64": struct.Struct(">q").unpack_from,
    "put_head": _put_head,
    "put_s32": struct.Struct(">IIiI").pack,
    "put_u32": struct.Struct(">IIII").pack,
    "put_s64": struct.Struct(">IIq").pack,
    "PAD": _PAD,
    "make_shape": _shape,
    "remember": _remember,
    "BOOLEANS": {bytes(8): False, bytes(7) + b"\1": True},
    "read_items": read_items,
    "read_leaf": read_leaf,
    "write_item": write_item,
    "write_leaf": write_leaf,
    "overrun": _overrun,
    "too_much": _too_much,
    "missing": _missing,
    "unwritable": _unwritable,
    "not_member": _not_member,
    "bad_boolean": _boolean,
    "unexpected": unexpected,
    "NAME_SINCE": NAME_SINCE,
}

_READ_VALUE: Final[dict[ItemType, str]] = {
    ItemType.INTEGER: "{x} = s32(b, v)[0]",
    ItemType.LONG_INTEGER: "{x} = s64(b, v)[0]",
    ItemType.BIG_INTEGER: "{x} = read_leaf(4, b[v:v + n])",
    ItemType.ENUMERATION: "{x} = u32(b, v)[0]",
    ItemType.BOOLEAN: "{x} = BOOLEANS.get(b[v:o])\nif {x} is None: bad_boolean({label!r})",
    ItemType.TEXT_STRING: f"if n > {MAX_TEXT_BYTES}: too_much({{label!r}})\n{{x}} = b[v:v + n].decode()",
    ItemType.BYTE_STRING: "{x} = b[v:v + n]",
    ItemType.DATE_TIME: "{x} = s64(b, v)[0]",
    ItemType.INTERVAL: "{x} = u32(b, v)[0]",
}
_WRITE_VALUE: Final[dict[ItemType, str]] = {
    ItemType.INTEGER: "p.append(put_s32({h}, 4, y, 0))",
    ItemType.LONG_INTEGER: "p.append(put_s64({h}, 8, y))",
    ItemType.BIG_INTEGER: "z = write_leaf(4, y); p += (put_head({h}, len(z)), z)",
    ItemType.ENUMERATION: "p.append(put_u32({h}, 4, y, 0))",
    ItemType.BOOLEAN: "p.append(put_s64({h}, 8, 1 if y else 0))",
    ItemType.TEXT_STRING: "z = y.encode(); n = len(z); p += (put_head({h}, n), z, PAD[n & 7])",
    ItemType.BYTE_STRING: "n = len(y); p += (put_head({h}, n), y, PAD[n & 7])",
    ItemType.DATE_TIME: "p.append(put_s64({h}, 8, y))",
    ItemType.INTERVAL: "p.append(put_u32({h}, 4, y, 0))",
}


@cache
def _changes(structure: type[Structure]) -> frozenset[int]:
    """Return the minor versions from which on this structure, or one in it, looks different."""
    if structure in HANDWRITTEN:
        return frozenset(range(NEWEST_MINOR + 1))
    found: set[int] = set()
    for field in fields_of(structure):
        found.add(field.since)
        if field.attribute_name:
            found.update(range(NEWEST_MINOR + 1))
        for kind in field.kinds:
            if kind.structure is not None:
                found |= _changes(kind.structure)
    return frozenset(found)


def _layout(structure: type[Structure], minor: int) -> int:
    """Return the oldest minor version in which the structure looks as it does in `minor`."""
    return max((change for change in _changes(structure) if change <= minor), default=0)


def _fields(structure: type[Structure], minor: int) -> list[Field]:
    return [field for field in fields_of(structure) if field.since <= minor]


def _read_value(field: Field, kind: Kind, into: str, label: str, names: dict[str, object], minor: int) -> list[str]:
    """Return the lines that read one occurrence whose header (h, n) was just seen at o."""
    lines = ["v = o + 8"]
    fixed = FIXED_LENGTHS.get(kind.wire)
    if fixed is not None:
        lines += [f"o = v + 8\nif n != {fixed} or o > end: overrun({label!r})"]
    elif kind.wire == ItemType.STRUCTURE:
        lines += [f"o = v + n\nif n & 7 or o > end: overrun({label!r})"]
    else:
        lines += [f"o = v + (n + 7 & -8)\nif o > end: overrun({label!r})"]
    if kind.structure is not None:
        name = f"read_{kind.structure.__name__}"
        names[name] = reader(kind.structure, minor)
        lines += [f"{into} = {name}(b, v, o)"]
        if kind.structure.memoised:
            names[memo := f"MEMO_{kind.structure.__name__}"] = _memo(kind.structure, _layout(kind.structure, minor))
            lines[-1] = f"k = b[v:o]\n{into} = {memo}.get(k)\nif {into} is None: {into} = {name}(b, v, o)"
    elif kind.wire == ItemType.STRUCTURE:
        lines += [f"{into} = read_items(b, v, o)"]
    else:
        lines += [_READ_VALUE[kind.wire].format(x=into, label=label)]
    if kind.members is not None:
        table = f"MEMBERS_{field.name}"
        names[table] = {member.value: member for member in kind.members}
        lines += [f"k = {table}.get({into})\nif k is None: not_member({label!r}, {into})\n{into} = k"]
    return lines


def _next() -> list[str]:
    return ["if o < end: h, n = head(b, o)", f"else: {_MISSING}"]


def _indent(lines: list[str], by: int) -> list[str]:
    return [" " * by + line for block in lines for line in block.split("\n")]


@cache
def _memo(structure: type[Structure], layout: int) -> dict[bytes, Structure]:  # noqa: ARG001 - the cache's key
    return {}


def _leads(fields: list[Field]) -> bool:
    """Whether the structure begins with an identifier and parameters: what a client repeats from call to call."""
    if len(fields) < 2 or any(field.repeated or len(field.kinds) > 1 for field in fields[:2]):
        return False
    (first,), (second,) = fields[0].kinds, fields[1].kinds
    return first.wire == ItemType.TEXT_STRING and second.structure is not None and second.structure.memoised


def _read_field(structure: type[Structure], field: Field, names: dict[str, object], minor: int) -> list[str]:
    """Return the lines that read a field whose header, if it is there, is (h, n) at o."""
    label, into = f"{structure.__name__}.{field.name}", f"f_{field.name}"
    if field.repeated:
        (kind,) = field.kinds
        body = [f"{into} = ()", f"if h == {field.tag << 8 | kind.wire}:", " l = []"]
        body += [" while True:", *_indent(_read_value(field, kind, "x", label, names, minor), 2), "  l.append(x)"]
        body += _indent(_next(), 2)
        body += [f"  if h != {field.tag << 8 | kind.wire}: break"]
        return [*body, f"  if len(l) == {field.at_most}: too_much({label!r})", f" {into} = tuple(l)"]
    body = []
    for number, kind in enumerate(field.kinds):
        body += [f"{'elif' if number else 'if'} h == {field.tag << 8 | kind.wire}:"]
        body += _indent([*_read_value(field, kind, into, label, names, minor), *_next()], 1)
    return [*body, f"else: {into} = None" if field.optional else f"else: missing({label!r})"]


def reader_source(structure: type[Structure], minor: int, names: dict[str, object]) -> str:
    """Return the source of one structure's reader; what it calls is added to `names`."""
    fields = _fields(structure, minor)
    body, rest = [], fields
    if _leads(fields):
        names["LEAD"], names["LAST"], rest = {}, [0], fields[2:]
        both = f"f_{fields[0].name}, f_{fields[1].name}"
        body += ["s = o", "o += LAST[0]", "t = LEAD.get(b[s:o]) if o <= end else None"]
        body += ["if t is None:", " o = s", *_indent(_next(), 1)]
        for field in fields[:2]:
            body += _indent(_read_field(structure, field, names, minor), 1)
        body += [f" remember(LEAD, LAST, b[s:o], {both})", "else:", f" {both} = t", *_indent(_next(), 1)]
    else:
        body += _next()
    for field in rest:
        body += _read_field(structure, field, names, minor)
    body += [f"if h != -1: unexpected(C, {minor}, h)"]
    make = f"C({', '.join(f'{field.name}=f_{field.name}' for field in fields)})"
    if structure.memoised:
        names["MEMO"] = _memo(structure, _layout(structure, minor))
        body += [f"r = {make}", f"if end - start <= {MAX_MEMO_BYTES}:"]
        body += [f" if len(MEMO) >= {MAX_MEMO_ENTRIES}: MEMO.clear()", " MEMO[b[start:end]] = r", "return r"]
    else:
        body += [f"return {make}"]
    first = ["o = start"] if structure.memoised else []
    names["C"] = structure
    arguments = "b, start, end" if structure.memoised else "b, o, end"
    return "\n".join([f"def read({arguments}):", *_indent(first + body, 1)])


def _write_value(kind: Kind, header: int, names: dict[str, object], minor: int, needed: str) -> str:
    if kind.structure is not None:
        name = f"write_{kind.structure.__name__}"
        names[name] = writer(kind.structure, minor)
        if kind.structure in HANDWRITTEN:  # returns nothing for what this version does not have
            otherwise = f"\nelse: unwritable({needed!r})" if needed else ""
            return f"z = {name}(y)\nif z: p += (put_head({header}, len(z)), z){otherwise}"
        return f"z = {name}(y); p += (put_head({header}, len(z)), z)"
    if kind.wire == ItemType.STRUCTURE:
        return f"z = b''.join([write_item(i) for i in y]); p += (put_head({header}, len(z)), z)"
    return _WRITE_VALUE[kind.wire].format(h=header)


def _strings_source(fields: list[Field], names: dict[str, object]) -> str:
    """Return the source of a writer whose fields are all strings: what stands around them is remembered by lengths."""
    names["SHAPES"], names["HEADS"] = {}, tuple(field.tag << 8 | field.kinds[0].wire for field in fields)
    body: list[str] = []
    for at, field in enumerate(fields):
        take = f"y{at} = y{at}.encode(); " if field.kinds[0].wire == ItemType.TEXT_STRING else ""
        body += [f"y{at} = x.{field.name}"]
        body += [f"if y{at} is None: y{at} = b''; n{at} = -1", "else: "] if field.optional else [""]
        body[-1] += f"{take}n{at} = len(y{at})"
    lengths = ", ".join(f"n{at}" for at in range(len(fields)))
    strings = ", ".join(f"y{at}, s[{at + 1}]" for at in range(len(fields)))
    body += [f"s = SHAPES.get(({lengths},))", f"if s is None: s = make_shape(SHAPES, HEADS, {lengths})"]
    body += [f"return b''.join((s[0], {strings}))"]
    return "\n".join(["def write(x):", *_indent(body, 1)])


def writer_source(structure: type[Structure], minor: int, names: dict[str, object]) -> str:
    """Return the source of one structure's writer; fields newer than `minor` are left out."""
    fields = _fields(structure, minor)
    if fields and not any(f.repeated or f.attribute_name or not {k.wire for k in f.kinds} <= _STRINGS for f in fields):
        return _strings_source(fields, names)
    body = ["p = []"]
    for field in fields:
        needed = "" if field.optional or field.repeated else f"{structure.__name__}.{field.name}"
        writes = [_write_value(kind, field.tag << 8 | kind.wire, names, minor, needed) for kind in field.kinds]
        if len(writes) == 1:
            lines = [writes[0]]
        else:  # bytes or a structure: told apart by the value as the wire type does
            plain = next(at for at, kind in enumerate(field.kinds) if kind.wire == ItemType.BYTE_STRING)
            lines = ["if y.__class__ is bytes:", *_indent([writes[plain]], 1)]
            lines += ["else:", *_indent([writes[1 - plain]], 1)]
        if field.attribute_name:
            lines = [f"if NAME_SINCE.get(y, 0) <= {minor}:", *_indent(lines, 1)]
        if field.repeated:
            body += [f"for y in x.{field.name}:", *_indent(lines, 1)]
        elif field.optional:
            body += [f"y = x.{field.name}", "if y is not None:", *_indent(lines, 1)]
        else:
            body += [f"y = x.{field.name}", *lines]
    body += ["return b''.join(p)"]
    return "\n".join(["def write(x):", *_indent(body, 1)])


def _compile(source: str, names: dict[str, object], function: str, title: str) -> Any:
    space = {**_RUNTIME, **names}
    exec(compile(source, f"<kmip {title}>", "exec"), space)  # noqa: S102 - source made from our own table only
    return space[function]


@cache
def _reader(structure: type[Structure], layout: int) -> Reader:
    if structure in HANDWRITTEN:
        return HANDWRITTEN[structure][0](layout)
    names: dict[str, object] = {}
    source = reader_source(structure, layout, names)
    made: Reader = _compile(source, names, "read", f"reader of {structure.__name__} 1.{layout}")
    return made


@cache
def _writer(structure: type[Structure], layout: int) -> Writer:
    if structure in HANDWRITTEN:
        return HANDWRITTEN[structure][1](layout)
    names: dict[str, object] = {}
    source = writer_source(structure, layout, names)
    made: Writer = _compile(source, names, "write", f"writer of {structure.__name__} 1.{layout}")
    return made


def reader(structure: type[Structure], minor: int) -> Reader:
    """Return the structure's reader for KMIP 1.`minor`."""
    return _reader(structure, _layout(structure, minor))


def writer(structure: type[Structure], minor: int) -> Writer:
    """Return the structure's writer for KMIP 1.`minor`."""
    return _writer(structure, _layout(structure, minor))


def read_contents(structure: type[Structure], data: bytes, minor: int) -> Any:
    """Return the structure whose contents (without tag, type and length) are all of `data`.

    Raises:
        KmipError: Whatever is wrong with the bytes; nothing else leaves this function.
    """
    if len(data) % 8:
        raise MalformedMessage(f"a structure of {len(data)} bytes: not a multiple of 8")
    try:
        return reader(structure, minor)(data, 0, len(data))
    except UnicodeDecodeError:
        raise MalformedMessage("a Text String that is not UTF-8") from None


def write_contents(value: Structure, minor: int) -> bytes:
    """Return the structure's contents (without tag, type and length).

    Raises:
        NotEncodable: A value that its field cannot hold.
    """
    try:
        return writer(type(value), minor)(value)
    except (struct.error, TypeError, AttributeError, OverflowError, UnicodeEncodeError) as bad:
        raise NotEncodable(f"{type(value).__name__}: {bad}") from bad
