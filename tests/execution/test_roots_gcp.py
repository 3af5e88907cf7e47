"""The Google Cloud KMS root against the wire double: the contract, and what is Google's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest
from msgspec.structs import replace

from contract_suites.roots import CONTEXT, KEK, RootContract, refused
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import RootSettings
from openkcm.execution.roots.gcp import crc32c
from simulators.google import STATE, GoogleKms, Key

_names = count()


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleKms]:
    one = GoogleKms(tmp_path_factory.mktemp("google"))
    yield one
    one.stop()


class GcpCustomer:
    def __init__(self, google: GoogleKms, directory: Path) -> None:
        self.google, self.directory = google, directory
        self.name = f"projects/acme-prod/locations/europe-west3/keyRings/openkcm/cryptoKeys/l1-{next(_names)}"
        google.keys[self.name] = self.key = Key()
        self.reference = RootReference(provider="gcp", ref=self.name)
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.settings = self.at(google.url, google.service_account(directory / "sa.json"))

    def at(self, url: str, file: Path, deadline_s: float = 2.0, **credential: str) -> RootSettings:
        token = f"{self.google.token.url}/token"
        policy = RootPolicy(
            providers=("gcp",),
            endpoints={"gcp:europe-west3": url, "gcp-token": token, "gcp-sts": token},
            credentials={"gcp": {"credentials_file": str(file), "ca_bundle": str(self.google.ca), **credential}},
        )
        return RootSettings(policy=policy, regions={"gcp": ("europe-west3",)}, deadline_s=deadline_s)

    def rotate(self) -> None:
        self.key.material.append(Key().material[0])
        self.key.states.append(STATE.ENABLED)

    def use_another_key(self) -> None:
        self.key.material = Key().material

    def disable(self) -> None:
        self.key.states[-1] = STATE.DISABLED

    def enable(self) -> None:
        self.key.states[-1] = STATE.ENABLED

    def schedule_deletion(self) -> None:
        self.key.states[-1] = STATE.DESTROY_SCHEDULED

    def delete(self) -> None:
        self.key.states[-1] = STATE.DESTROYED

    def forbid(self) -> None:
        self.key.readers = set()

    def unreachable(self) -> RootSettings:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return self.at(f"https://localhost:{free.getsockname()[1]}", self.directory / "sa.json")

    def slow(self) -> RootSettings:
        return self.at(f"https://localhost:{self.silent.getsockname()[1]}", self.directory / "sa.json", 0.5)

    def bad_credential(self) -> RootSettings:
        return self.at(self.google.url, self.google.service_account(self.directory / "unknown.json", known=False))

    def throttled(self) -> RootSettings:
        self.google.always = grpc.StatusCode.RESOURCE_EXHAUSTED
        return replace(self.settings, deadline_s=0.5)

    def throttled_once(self) -> RootSettings:
        self.google.faults = [grpc.StatusCode.RESOURCE_EXHAUSTED]
        return self.settings

    def close(self) -> None:
        self.silent.close()
        self.google.always, self.google.faults, self.google.delay_s = None, [], 0.0


@pytest.fixture
def customer(google: GoogleKms, tmp_path: Path) -> Iterator[GcpCustomer]:
    one = GcpCustomer(google, tmp_path)
    yield one
    one.close()


class TestGcpRoot(RootContract):
    @pytest.fixture
    def customer(self, google: GoogleKms, tmp_path: Path) -> Iterator[GcpCustomer]:
        one = GcpCustomer(google, tmp_path)
        yield one
        one.close()


def test_crc32c_is_the_castagnoli_one() -> None:
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize("field", ["plaintext", "ciphertext", "additional_authenticated_data", "answer"])
def test_what_was_damaged_on_the_way_is_asked_again(customer: GcpCustomer, field: str) -> None:
    root = open_root(customer.reference, customer.settings)
    customer.google.damage, before = field, len(customer.google.calls)
    wrapped = root.wrap(KEK, CONTEXT)
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    assert customer.google.damage is None
    assert len(customer.google.calls) - before == 4  # encrypt, its proof, decrypt; one of them twice


def test_the_usual_role_lets_us_unwrap_and_not_look(customer: GcpCustomer) -> None:
    root = open_root(customer.reference, customer.settings)
    customer.key.readers = {"use"}
    wrapped = root.wrap(KEK, CONTEXT)
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    assert root.describe().version is None
    customer.disable()  # its state cannot be looked up; the refusal's own words say it
    refused("KeyDisabled", lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT))


def test_a_federated_credential_works_and_a_refused_one_is_ours(customer: GcpCustomer) -> None:
    for subject, code in ((customer.google.sts_subject, None), ("another", "CredentialRejected")):
        file = customer.google.external_account(customer.directory / f"{subject}.json", subject)
        root = open_root(customer.reference, customer.at(customer.google.url, file, source="federated"))
        if code is None:
            assert (
                root.unwrap(root.wrap(KEK, CONTEXT).ciphertext, f"{customer.name}/cryptoKeyVersions/1", CONTEXT) == KEK
            )
        else:
            refused(code, root.describe)


def test_one_token_serves_many_calls(customer: GcpCustomer) -> None:
    root = open_root(customer.reference, customer.settings)
    before = len(customer.google.token.asked)
    for _ in range(3):
        root.describe()
    assert len(customer.google.token.asked) == before + 1


def test_a_token_endpoint_that_is_away_or_hangs_takes_no_key_away(customer: GcpCustomer) -> None:
    policy = customer.settings.policy
    for port in (9, customer.silent.getsockname()[1]):
        away = replace(policy, endpoints={**policy.endpoints, "gcp-token": f"https://127.0.0.1:{port}/token"})
        root = open_root(customer.reference, replace(customer.settings, policy=away, deadline_s=0.5))
        refused("Unreachable", root.describe)


def test_a_version_of_another_key_is_refused_without_asking(customer: GcpCustomer) -> None:
    root = open_root(customer.reference, customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    calls = len(customer.google.calls)
    refused("WrongContext", lambda: root.unwrap(wrapped.ciphertext, f"{customer.name}-x/cryptoKeyVersions/1", CONTEXT))
    assert len(customer.google.calls) == calls


def test_every_status_and_state_means_something_with_an_action() -> None:
    from openkcm.execution.roots import gcp
    from openkcm.execution.roots.base import ACTIONS

    assert {*gcp._CODES.values(), *gcp._KEY_STATES.values(), *gcp._REASONS.values()} <= set(ACTIONS)


def test_nothing_is_asked_without_an_endpoint_a_credential_and_an_allowed_location(customer: GcpCustomer) -> None:
    policy = customer.settings.policy
    for broken in (replace(policy, endpoints={}), replace(policy, credentials={}),
                   replace(policy, credentials={"gcp": {"private_key": "x"}}),
                   replace(policy, endpoints={"gcp": "http://localhost:1"})):  # fmt: skip
        settings = replace(customer.settings, policy=broken)
        refused("Misconfigured", lambda s=settings: open_root(customer.reference, s))
    elsewhere = replace(customer.reference, ref=customer.name.replace("europe-west3", "us-east1"))
    refused("Misconfigured", lambda: open_root(elsewhere, customer.settings))
