"""The KMIP root against PyKMIP's server: the contract, and what is the protocol's own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from contract_suites.roots import CONTEXT, KEK, RootContract, refused
from loopback import free_ports
from openkcm.cli.pki import authority
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import Root, RootError, RootSettings, make_canary
from simulators.pykmip import PyKmip

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated")  # PyKMIP names no newer one
_names = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyKmip]:
    one = PyKmip(tmp_path_factory.mktemp("pykmip"), *free_ports(1))
    yield one
    one.stop()


class KmipCustomer:
    def __init__(self, server: PyKmip, directory: Path) -> None:
        self.server, self.directory, self.name = server, directory, f"acme-l1-{next(_names)}"
        self.uids = [server.make_key(self.name)]
        self.reference = RootReference(provider="kmip", ref=f"name:{self.name}")
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.settings = self.at(server.port)
        self.forbidden = False

    def at(self, port: int, ca: Path | None = None, deadline_s: float = 2.0) -> RootSettings:
        pki = authority(ca) if ca else self.server.pki
        certificate, key = pki.issue_workload("openkcm", "node")
        credential = {"certificate": str(certificate), "key": str(key), "ca_bundle": str(self.server.pki.ca)}
        policy = RootPolicy(
            providers=("kmip",), credentials={"kmip": credential}, endpoints={"kmip:kmip": f"127.0.0.1:{port}"}
        )
        return RootSettings(policy=policy, deadline_s=deadline_s)

    def rotate(self) -> None:
        time.sleep(1.1)  # KMIP dates have seconds
        self.uids.append(self.server.make_key(self.name))

    use_another_key = rotate

    def disable(self) -> None:
        self.server.revoke(self.uids[-1])

    def delete(self) -> None:
        for uid in self.uids:
            self.server.destroy(uid)

    def forbid(self) -> None:
        self.server.allow(use=False)
        self.forbidden = True
        self._until(lambda: self._uses() == "AccessDenied")

    def _uses(self) -> str:
        """What the node's credential gets of the key now; the server reads its policies once a second."""
        try:
            open_root(replace(self.reference, ref=self.uids[0]), self.settings).describe()
        except RootError as no:
            return no.code
        return "ok"

    def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            time.sleep(0.1)

    def unreachable(self) -> RootSettings:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return self.at(free.getsockname()[1])

    def slow(self) -> RootSettings:
        return self.at(self.silent.getsockname()[1], deadline_s=0.3)

    def bad_credential(self) -> RootSettings:
        return self.at(self.server.port, self.directory / "another-ca")

    def close(self) -> None:
        self.silent.close()
        if self.forbidden:
            self.server.allow()
            self._until(lambda: self._uses() == "ok")


@pytest.fixture
def customer(server: PyKmip, tmp_path: Path) -> Iterator[KmipCustomer]:
    one = KmipCustomer(server, tmp_path)
    yield one
    one.close()


class TestKmipRoot(RootContract):
    @pytest.fixture
    def customer(self, server: PyKmip, tmp_path: Path) -> Iterator[KmipCustomer]:
        one = KmipCustomer(server, tmp_path)
        yield one
        one.close()

    def test_a_withdrawn_permission_locks(self, root: Root, customer: KmipCustomer) -> None:
        """The key itself is denied; by its name it is not even found."""
        wrapped, canary = root.wrap(KEK, CONTEXT), make_canary(root, KEK, CONTEXT)
        customer.forbid()
        refused("AccessDenied", lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT))
        refused("AccessDenied", lambda: root.probe(canary, CONTEXT))
        assert refused("KeyNotFound", lambda: root.wrap(KEK, CONTEXT)).action == "lock"


def test_a_key_named_by_its_identifier_is_that_one(customer: KmipCustomer) -> None:
    root = open_root(replace(customer.reference, ref=customer.uids[0]), customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    assert wrapped.root_version == customer.uids[0] == root.describe().version
    other = customer.server.make_key(customer.name)
    assert root.describe().version == customer.uids[0]
    refused("WrongContext", lambda: root.unwrap(wrapped.ciphertext, other, CONTEXT))


def test_a_key_that_was_never_activated_is_disabled(customer: KmipCustomer) -> None:
    uid = customer.server.make_key(f"{customer.name}-new", active=False)
    refused(
        "KeyDisabled", lambda: open_root(replace(customer.reference, ref=uid), customer.settings).wrap(KEK, CONTEXT)
    )


def test_a_server_of_another_ca_is_not_spoken_to(customer: KmipCustomer, tmp_path: Path) -> None:
    policy = customer.settings.policy
    own = {**policy.credentials["kmip"], "ca_bundle": str(authority(tmp_path / "other").ca)}
    settings = replace(customer.settings, policy=replace(policy, credentials={"kmip": own}))
    refused("Misconfigured", open_root(customer.reference, settings).describe)


def test_every_reason_and_state_means_something_with_an_action() -> None:
    from openkcm.execution.roots import kmip
    from openkcm.execution.roots.base import ACTIONS

    assert {*kmip._MEANINGS.values(), *kmip._STATES.values()} <= set(ACTIONS)
