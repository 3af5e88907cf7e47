"""What every root must do. A test module inherits `RootContract` and gives it a `customer`: the other side, on real parts.

`pytest --live` runs the same against real clouds (docs/roots/README.md); there a customer's deeds are those that its own
administrator's credential allows, and what a cloud does only after days is skipped.
"""

from __future__ import annotations

from typing import Protocol

import pytest

from openkcm.contract.decrees import RootReference
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import ACTIONS, Root, RootError, RootSettings, make_canary

KEK = bytes(range(32))
CONTEXT = {"openkcm-tenant": "acme", "openkcm-region": "eu-frankfurt", "openkcm-version": "1"}


class Customer(Protocol):
    """The customer's side of its key.

    What a backend cannot do is missing, and its test is skipped.
    """

    reference: RootReference
    settings: RootSettings

    def rotate(self) -> None: ...
    def use_another_key(self) -> None: ...
    def disable(self) -> None: ...
    def enable(self) -> None: ...
    def schedule_deletion(self) -> None: ...
    def delete(self) -> None: ...
    def forbid(self) -> None: ...
    def unreachable(self) -> RootSettings: ...
    def slow(self) -> RootSettings: ...
    def bad_credential(self) -> RootSettings: ...
    def throttled(self) -> RootSettings: ...
    def throttled_once(self) -> RootSettings: ...


def _deed(customer: Customer, act: str):
    if not hasattr(customer, act):
        pytest.skip(f"{customer.reference.provider}: no way to {act}")
    return getattr(customer, act)()


def refused(code: str, act) -> RootError:
    with pytest.raises(RootError) as no:
        act()
    assert no.value.code == code, no.value
    assert code in ACTIONS
    return no.value


class RootContract:
    @pytest.fixture
    def customer(self) -> Customer:
        raise NotImplementedError

    @pytest.fixture
    def root(self, customer: Customer) -> Root:
        return open_root(customer.reference, customer.settings)

    def test_what_was_wrapped_unwraps_under_the_same_context(self, root: Root) -> None:
        wrapped = root.wrap(KEK, CONTEXT)
        assert KEK not in wrapped.ciphertext
        assert root.unwrap(wrapped.ciphertext, wrapped.root_version, dict(reversed(CONTEXT.items()))) == KEK
        assert root.describe().version == wrapped.root_version

    def test_two_wraps_of_one_key_differ(self, root: Root) -> None:
        assert root.wrap(KEK, CONTEXT).ciphertext != root.wrap(KEK, CONTEXT).ciphertext

    @pytest.mark.parametrize("field", [*CONTEXT, "openkcm-more"])
    def test_another_context_is_refused(self, root: Root, field: str) -> None:
        wrapped = root.wrap(KEK, CONTEXT)
        other = {**CONTEXT, field: "other"}
        assert (
            refused("WrongContext", lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, other)).action
            == "lock"
        )

    def test_a_changed_byte_never_gives_another_key(self, root: Root) -> None:
        wrapped = root.wrap(KEK, CONTEXT)
        for where in range(0, len(wrapped.ciphertext), 7):  # a provider's header need not be authenticated
            changed = bytearray(wrapped.ciphertext)
            changed[where] ^= 1
            try:
                assert root.unwrap(bytes(changed), wrapped.root_version, CONTEXT) == KEK
            except RootError as no:
                assert no.code == "WrongContext"  # noqa: PT017 -- either is right

    @pytest.mark.parametrize("where", [-20, -1])
    def test_a_changed_byte_of_the_wrapped_key_is_refused(self, root: Root, where: int) -> None:
        wrapped = root.wrap(KEK, CONTEXT)
        changed = bytearray(wrapped.ciphertext)
        changed[where] ^= 1
        refused("WrongContext", lambda: root.unwrap(bytes(changed), wrapped.root_version, CONTEXT))

    @pytest.mark.parametrize("size", [0, 11, 40])
    def test_a_cut_ciphertext_is_refused(self, root: Root, size: int) -> None:
        wrapped = root.wrap(KEK, CONTEXT)
        with pytest.raises(RootError):
            root.unwrap(wrapped.ciphertext[:size], wrapped.root_version, CONTEXT)

    @pytest.mark.parametrize("size", [0, 16, 31, 33])
    def test_only_32_bytes_are_wrapped(self, root: Root, size: int) -> None:
        refused("Misconfigured", lambda: root.wrap(bytes(size), CONTEXT))

    def test_a_key_of_the_same_name_that_is_another_one_is_refused(self, root: Root, customer: Customer) -> None:
        wrapped = root.wrap(KEK, CONTEXT)
        _deed(customer, "use_another_key")
        with pytest.raises(RootError) as no:
            root.unwrap(wrapped.ciphertext, root.describe().version or "", CONTEXT)
        assert no.value.code == "WrongContext"

    def test_a_rotation_shows_and_the_old_version_still_unwraps(self, root: Root, customer: Customer) -> None:
        old = root.wrap(KEK, CONTEXT)
        canary = make_canary(root, KEK, CONTEXT)
        _deed(customer, "rotate")
        new = root.wrap(KEK, CONTEXT)
        assert new.root_version != old.root_version
        assert root.describe().version == new.root_version == root.probe(canary, CONTEXT).version
        for wrapped in (old, new):
            assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK

    def test_a_probe_is_good_while_the_key_is(self, root: Root) -> None:
        canary = make_canary(root, KEK, CONTEXT)
        assert root.probe(canary, CONTEXT).state == "ok"
        refused("WrongContext", lambda: root.probe(canary, {**CONTEXT, "openkcm-tenant": "bolt"}))

    def test_a_canary_is_no_kek_and_a_kek_no_canary(self, root: Root) -> None:
        canary = make_canary(root, KEK, CONTEXT)
        refused("WrongContext", lambda: root.unwrap(canary.ciphertext, canary.root_version, CONTEXT))

    def _locks(self, root: Root, customer: Customer, act: str, code: str, back: str | None) -> None:
        wrapped, canary = root.wrap(KEK, CONTEXT), make_canary(root, KEK, CONTEXT)
        _deed(customer, act)
        for call in (
            lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT),
            lambda: root.probe(canary, CONTEXT),
            lambda: root.wrap(KEK, CONTEXT),
        ):
            assert refused(code, call).action == "lock"
        if back and hasattr(customer, back):
            getattr(customer, back)()
            assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK

    def test_a_disabled_key_locks_and_an_enabled_one_opens_again(self, root: Root, customer: Customer) -> None:
        self._locks(root, customer, "disable", "KeyDisabled", "enable")

    def test_a_key_that_waits_for_its_deletion_locks(self, root: Root, customer: Customer) -> None:
        self._locks(root, customer, "schedule_deletion", "KeyPendingDeletion", None)

    def test_a_key_that_is_gone_locks(self, root: Root, customer: Customer) -> None:
        self._locks(root, customer, "delete", "KeyNotFound", None)

    def test_a_withdrawn_permission_locks(self, root: Root, customer: Customer) -> None:
        self._locks(root, customer, "forbid", "AccessDenied", None)

    def _keeps(self, customer: Customer, act: str, code: str, action: str = "keep") -> None:
        wrapped = open_root(customer.reference, customer.settings).wrap(KEK, CONTEXT)
        root = open_root(customer.reference, _deed(customer, act))
        no = refused(code, lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT))
        assert no.action == action

    def test_an_unreachable_root_takes_no_key_away(self, customer: Customer) -> None:
        self._keeps(customer, "unreachable", "Unreachable")

    def test_a_root_that_does_not_answer_in_time_takes_no_key_away(self, customer: Customer) -> None:
        self._keeps(customer, "slow", "Unreachable")

    def test_our_own_bad_credential_takes_no_key_away(self, customer: Customer) -> None:
        self._keeps(customer, "bad_credential", "CredentialRejected")

    def test_a_root_that_throttles_is_asked_again_inside_the_deadline(self, customer: Customer) -> None:
        self._keeps(customer, "throttled", "Throttled", "retry")

    def test_a_root_that_throttles_for_a_moment_is_waited_for(self, customer: Customer) -> None:
        wrapped = open_root(customer.reference, customer.settings).wrap(KEK, CONTEXT)
        root = open_root(customer.reference, _deed(customer, "throttled_once"))
        assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
