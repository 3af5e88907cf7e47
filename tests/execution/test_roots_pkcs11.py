"""The PKCS#11 root against SoftHSM2: the contract, and what is the HSM's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from contract_suites.roots import RootContract
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
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
