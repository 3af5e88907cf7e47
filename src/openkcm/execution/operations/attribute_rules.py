"""What may be added to, changed in and deleted from an object's attributes. Pure: values in, values out.

Source: KMIP 1.4, section 3 (the rule table of each attribute) and sections 4.14 to 4.16 with their errors (11.13 to
11.15). A read-only attribute is PermissionDenied, as the profiles' vectors have it; so is one that the object's state
has settled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import accepted, value_of
from openkcm.kmip import ATTRIBUTES, Attribute, AttributeRule, Item, is_custom
from openkcm.kmip.enums import ObjectType, ResultReason, State
from openkcm.kmip.structures import UsageLimits

__all__ = ["Attributes", "added", "deleted", "modified"]

Attributes = list[Attribute]
_SETTLED: Final = frozenset({State.DEACTIVATED, State.COMPROMISED, State.DESTROYED, State.DESTROYED_COMPROMISED})

#: Until when a date may still be set: (state, the date as it stands, now) -> settled.
_DATES_SETTLED: Final[dict[str, Callable[[State, int | None, int], bool]]] = {
    "Activation Date": lambda state, _date, _now: state != State.PRE_ACTIVE,
    "Process Start Date": lambda state, date, now: state in _SETTLED or (date is not None and date <= now),
    "Protect Stop Date": lambda state, date, now: state in _SETTLED or (date is not None and date <= now),
    "Deactivation Date": lambda state, _date, _now: state in _SETTLED,
}
#: Flags whose history is an attribute of its own (sections 3.46 to 3.49): it stays true while every value was this.
_HISTORIES: Final = {"Sensitive": ("Always Sensitive", True), "Extractable": ("Never Extractable", False)}


def _no(reason: ResultReason, message: str) -> OperationFailed:
    return OperationFailed(reason, message)


def _denied(message: str) -> OperationFailed:
    return _no(ResultReason.PERMISSION_DENIED, message)


def _rule(name: str) -> AttributeRule | None:
    """Return the rule of a standard attribute, None for a client's own.

    Raises:
        OperationFailed: The name is neither, or a server's own.
    """
    rule = ATTRIBUTES.get(name)
    if rule is None:
        if not is_custom(name):
            raise _no(ResultReason.ITEM_NOT_FOUND, "there is no attribute of this name")
        if name.startswith("y-"):
            raise _denied("names that begin with y- are the server's")
    return rule


def _settled(attributes: Attributes, state: State, name: str, now_s: int) -> None:
    settled = _DATES_SETTLED.get(name)
    if settled is not None and settled(state, value_of(attributes, name), now_s):
        raise _denied(f"{name} cannot be changed any more")
    limits = value_of(attributes, name) if name == "Usage Limits" else None
    if isinstance(limits, UsageLimits) and limits.usage_limits_count != limits.usage_limits_total:
        raise _denied("a part of the Usage Limits has been used already")


def _with_history(attributes: Attributes, name: str, value: Any) -> Attributes:
    if name not in _HISTORIES:
        return attributes
    history, kept_by = _HISTORIES[name]
    still = bool(value_of(attributes, history)) and value is kept_by
    return [replace(a, attribute_value=still) if a.attribute_name == history else a for a in attributes]


def added(
    attributes: Attributes, new: Attribute, state: State, object_type: int, now_s: int
) -> tuple[Attributes, Attribute]:
    """Return the attributes with a new instance, and that instance with its index.

    Raises:
        OperationFailed: Read-only, settled, an index given, or there already and not repeatable.
    """
    name = new.attribute_name
    rule = _rule(name)
    if rule is not None and not rule.client_sets:
        raise _denied(f"{name} is read-only")
    if new.attribute_index:
        raise _no(ResultReason.INVALID_FIELD, "the server chooses the index of a new instance")
    taken = [a.attribute_index or 0 for a in attributes if a.attribute_name == name]
    if taken and rule is not None and not rule.multiple:
        raise _no(ResultReason.ILLEGAL_OPERATION, f"the object has {name} already: modify it")
    if name in _DATES_SETTLED and object_type in {ObjectType.OPAQUE_OBJECT, ObjectType.TEMPLATE}:
        raise _denied(f"an object of this type has no {name}")
    _settled(attributes, state, name, now_s)
    kept = replace(accepted([new])[0], attribute_index=max(taken) + 1 if taken else None)
    return [*_with_history(attributes, name, kept.attribute_value), kept], kept


def _instance(attributes: Attributes, name: str, index: int | None) -> int:
    wanted = index or 0
    for at, a in enumerate(attributes):
        if a.attribute_name == name and (a.attribute_index or 0) == wanted:
            return at
    raise _no(ResultReason.ITEM_NOT_FOUND, f"the object has no instance {wanted} of this attribute")


def modified(attributes: Attributes, new: Attribute, state: State, now_s: int) -> tuple[Attributes, Attribute]:
    """Return the attributes with one instance's value replaced, and that instance.

    Raises:
        OperationFailed: Not there, read-only, settled, or of another type than before (a client's own attribute).
    """
    name = new.attribute_name
    rule = _rule(name)
    if rule is not None and not rule.client_modifies:
        raise _denied(f"{name} is read-only")
    at = _instance(attributes, name, new.attribute_index)
    _settled(attributes, state, name, now_s)
    before = attributes[at].attribute_value
    if isinstance(before, Item) and isinstance(new.attribute_value, Item) and before.type != new.attribute_value.type:
        raise _no(ResultReason.INVALID_FIELD, f"the attribute is a {before.type.name}")
    kept = replace(accepted([new])[0], attribute_index=attributes[at].attribute_index)
    out = [*attributes[:at], kept, *attributes[at + 1 :]]
    return _with_history(out, name, kept.attribute_value), kept


def deleted(
    attributes: Attributes, name: str, index: int | None, state: State, now_s: int
) -> tuple[Attributes, Attribute]:
    """Return the attributes without one instance, and that instance; the others keep their indexes.

    Raises:
        OperationFailed: Not there, needed or read-only, settled.
    """
    rule = _rule(name)
    if rule is not None and not rule.client_deletes:
        raise _denied(f"{name} is needed or read-only")
    at = _instance(attributes, name, index)
    _settled(attributes, state, name, now_s)
    return [*attributes[:at], *attributes[at + 1 :]], attributes[at]
