"""The customer's side of a key file, and of an HSM."""

import pytest

from openkcm.cli.customer import FileCustomer, customer_of
from openkcm.cli.layout import Layout
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import RootError, RootSettings
from simulators.softhsm import forget_libraries, module_path

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


@pytest.mark.skipif(module_path() is None, reason="needs the Debian package softhsm2")
def test_a_customer_with_an_hsm_makes_rotates_cuts_and_gives_back(tmp_path):
    forget_libraries()
    layout = Layout(tmp_path / "state", pkcs11=True)
    (owner := customer_of(layout, "acme", "eu-frankfurt")).make()
    reference = owner.make()  # again: the same key
    root = open_root(
        RootReference(provider=reference.provider, ref=reference.ref),
        RootSettings(policy=layout.regions[0].roots, regions=layout.regions[0].root_regions),
    )
    wrapped = root.wrap(bytes(32), {})
    owner.rotate()
    assert root.describe().version != wrapped.root_version
    owner.take_away()
    with pytest.raises(RootError, match="KeyDisabled"):
        root.unwrap(wrapped.ciphertext, wrapped.root_version, {})
    owner.give_back()
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, {}) == bytes(32)
