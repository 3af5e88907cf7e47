"""The PKCS#11 root against SoftHSM2: the contract, and what is the HSM's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from contract_suites.roots import CONTEXT, KEK, RootContract, refused
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root, pkcs11
from openkcm.execution.roots.base import RootSettings
from simulators.softhsm import SoftHsm, module_path

pytestmark = pytest.mark.skipif(module_path() is None, reason="needs the Debian package softhsm2")
_names = count()
HOLD = """
import fcntl, sys, time
files = [open(name, "r+b") for name in sys.argv[1:]]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    return SoftHsm(tmp_path_factory.mktemp("softhsm"))


class HsmCustomer:
    def __init__(self, hsm: SoftHsm, directory: Path) -> None:
        self.hsm, self.directory, self.token = hsm, directory, f"acme {next(_names)}"
        self.held = ExitStack()
        hsm.make_token(self.token)
        hsm.make_key(self.token, "l1")
        self.reference = RootReference(
            provider="pkcs11", ref=f"pkcs11:token={self.token.replace(' ', '%20')};object=l1;type=secret-key"
        )
        self.settings = self.with_pin(hsm.pin_file)

    def with_pin(self, pin_file: Path) -> RootSettings:
        credential = {"module": self.hsm.module, "environment": self.hsm.environment, "pin_file": str(pin_file)}
        policy = RootPolicy(providers=("pkcs11",), credentials={"pkcs11": credential})
        return RootSettings(policy=policy, deadline_s=1.0)

    def rotate(self) -> None:
        self.hsm.make_key(self.token, "l1")

    def use_another_key(self) -> None:
        self.hsm.destroy(self.token, "l1")
        self.hsm.make_key(self.token, "l1")

    def disable(self) -> None:
        self.hsm.allow(self.token, "l1", use=False)

    def enable(self) -> None:
        self.hsm.allow(self.token, "l1", use=True)

    def delete(self) -> None:
        self.hsm.destroy(self.token, "l1")

    def unreachable(self) -> RootSettings:
        self.hsm.drop_token(self.token)
        return self.settings

    def slow(self) -> RootSettings:
        """Hold the locks of the token's files: the library waits in them, as a network HSM's does for its server."""
        files = [str(path) for path in self.hsm.token_directory(self.token).iterdir()]
        holder = subprocess.Popen([sys.executable, "-c", HOLD, *files], stdout=subprocess.PIPE)
        self.held.callback(holder.wait)
        self.held.callback(holder.kill)
        assert holder.stdout is not None
        self.held.enter_context(holder.stdout).read(1)
        return self.settings

    def bad_credential(self) -> RootSettings:
        wrong = self.directory / "wrong"
        wrong.touch(0o600)
        wrong.write_text("000000\n")
        return self.with_pin(wrong)


@pytest.fixture
def customer(hsm: SoftHsm, tmp_path: Path) -> Iterator[HsmCustomer]:
    one = HsmCustomer(hsm, tmp_path)
    yield one
    one.held.close()


class TestPkcs11Root(RootContract):
    @pytest.fixture
    def customer(self, hsm: SoftHsm, tmp_path: Path) -> Iterator[HsmCustomer]:
        one = HsmCustomer(hsm, tmp_path)
        yield one
        one.held.close()


def test_a_key_named_by_its_id_is_that_one_and_no_rotation_is_followed(customer: HsmCustomer) -> None:
    one = replace(customer.reference, ref=customer.reference.ref.replace("object=l1", "object=l1;id=%00%01"))
    root = open_root(one, customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    customer.rotate()
    assert root.describe().version == wrapped.root_version == "l1#0001"
    assert open_root(customer.reference, customer.settings).describe().version == "l1#0002"


def test_a_token_made_after_the_library_was_loaded_is_found(
    hsm: SoftHsm, customer: HsmCustomer, tmp_path: Path
) -> None:
    open_root(customer.reference, customer.settings).describe()
    hsm._tool(
        "--init-token", "--free", "--label", "later", "--so-pin", "local-stack-only-so", "--pin", "local-stack-only"
    )
    later = replace(customer.reference, ref="pkcs11:token=later;object=l1")
    refused("KeyNotFound", open_root(later, customer.settings).describe)  # the token is there, and has no key


def test_the_last_pin_try_is_never_used_up() -> None:
    from pkcs11 import TokenFlag

    pkcs11.check_tries(TokenFlag.USER_PIN_COUNT_LOW)
    for flag in (TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED):
        assert refused("CredentialRejected", lambda f=flag: pkcs11.check_tries(f)).action == "keep"


@pytest.mark.parametrize(
    "broken", [{}, {"pin_file": "x", "module": "/nowhere.so", "pin": "1234"}, {"module": "/nowhere/libx.so"}]
)
def test_a_credential_that_is_incomplete_or_has_a_secret_in_it_is_refused(
    customer: HsmCustomer, broken: dict[str, str]
) -> None:
    credential = {**broken, **({"pin_file": str(customer.hsm.pin_file)} if broken.get("module") else {})}
    policy = replace(customer.settings.policy, credentials={"pkcs11": credential})
    settings = replace(customer.settings, policy=policy)
    refused("Misconfigured", lambda: open_root(customer.reference, settings).describe())


def test_one_library_has_one_configuration_in_a_process(customer: HsmCustomer) -> None:
    open_root(customer.reference, customer.settings).describe()
    credential = {**customer.settings.policy.credentials["pkcs11"], "environment": "SOFTHSM2_CONF=/elsewhere"}
    settings = replace(customer.settings, policy=replace(customer.settings.policy, credentials={"pkcs11": credential}))
    refused("Misconfigured", open_root(customer.reference, settings).describe)


def test_every_return_value_means_a_state_with_an_action() -> None:
    from openkcm.execution.roots.base import ACTIONS

    assert {*pkcs11._MEANINGS.values(), *pkcs11._CODES.values()} <= set(ACTIONS)
