"""The object record: as JSON in the vault, and what its wrapping is bound to."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from openkcm.execution.objects import context_of
from openkcm.execution.records import ObjectRecord

RECORD = ObjectRecord(
    uid="u-1", registration="pay", object_type=2, state=1, l3_version=3, wrapped=b"w" * 60, attributes=b"a" * 8,
    names=("n",), algorithm=3, length_bits=256, usage_mask=12, key_format=1, block=b"b",
)  # fmt: skip


def test_a_record_survives_the_vault():
    raw = msgspec.json.encode(RECORD)
    assert msgspec.json.decode(raw, type=ObjectRecord) == RECORD


@pytest.mark.parametrize("bad", [{"uid": "UPPER"}, {"uid": "a.b"}, {"l3_version": -1}, {"more": 1}])
def test_a_record_that_does_not_fit_is_refused(bad):
    document = {**msgspec.to_builtins(RECORD), **bad}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, ObjectRecord)


LIMITING = {
    "uid": "u-2", "registration": "other", "object_type": 7, "l3_version": 4, "algorithm": 2, "length_bits": 128,
    "usage_mask": 4, "key_format": 2, "block": b"c",
}  # fmt: skip


@pytest.mark.parametrize("field", LIMITING)
def test_whatever_says_whose_a_key_is_or_limits_its_use_is_under_the_wrapping(field):
    changed = replace(RECORD, **{field: LIMITING[field]})
    assert context_of("eu", "acme", changed) != context_of("eu", "acme", RECORD)


def test_region_and_tenant_are_under_the_wrapping():
    assert len({context_of(r, t, RECORD) for r in ("eu", "us") for t in ("acme", "bolt")}) == 4


def test_what_changes_in_a_keys_life_is_not():
    moved = replace(RECORD, state=2, attributes=b"", names=(), wrapped=None)
    assert context_of("eu", "acme", moved) == context_of("eu", "acme", RECORD)
