"""The customer's side of a key file."""

import pytest

from openkcm.cli.customer import FileCustomer
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots.base import RootError, RootSettings
from openkcm.execution.roots.file import open_root

CONTEXT = {"tenant": "acme"}


@pytest.fixture
def owner(tmp_path):
    one = FileCustomer(tmp_path / "acme.keys")
    one.make()
    return one


def root_of(owner, tmp_path):
    reference = owner.make()
    policy = RootPolicy(providers=("file",), directories=(str(tmp_path),))
    return open_root(RootReference(provider=reference.provider, ref=reference.ref), RootSettings(policy=policy))


def test_making_a_key_twice_makes_one(owner, tmp_path):
    before = (tmp_path / "acme.keys").read_text()
    owner.make()
    assert (tmp_path / "acme.keys").read_text() == before


def test_a_rotated_key_wraps_anew_and_unwraps_what_was(owner, tmp_path):
    root = root_of(owner, tmp_path)
    old = root.wrap(bytes(32), CONTEXT)
    owner.rotate()
    new = root.wrap(bytes(32), CONTEXT)
    assert (old.root_version, new.root_version) == ("v1", "v2")
    assert root.unwrap(old.ciphertext, old.root_version, CONTEXT) == bytes(32)


def test_a_key_taken_away_is_not_found_and_given_back_it_is_the_same(owner, tmp_path):
    root = root_of(owner, tmp_path)
    wrapped = root.wrap(bytes(32), CONTEXT)
    owner.take_away()
    with pytest.raises(RootError) as no:
        root.describe()
    assert no.value.code == "KeyNotFound"
    owner.give_back()
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == bytes(32)
