"""The Azure root against the wire double: the contract with an RSA key, and what is Azure's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from contract_suites.roots import CONTEXT, KEK, RootContract, refused
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import RootSettings, make_canary
from simulators.azure import CLIENT, SECRET, TENANT, AzureVault, Key
from simulators.https import Answer

_names = count()
HOST = "acme-eu.vault.azure.net"


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureVault]:
    one = AzureVault(tmp_path_factory.mktemp("azure"))
    yield one
    one.stop()


class AzureCustomer:
    def __init__(self, vault: AzureVault, directory: Path, *, aes: bool = False) -> None:
        self.vault, self.directory, self.name = vault, directory, f"l1-{next(_names)}"
        vault.keys[self.name] = self.key = Key(aes=aes)
        self.reference = RootReference(provider="azure", ref=f"https://{HOST}/keys/{self.name}")
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.settings = self.at(vault.url, self.secret(SECRET))

    def secret(self, text: str) -> Path:
        (file := self.directory / f"secret-{len(text)}").touch(0o600)
        file.write_text(f"{text}\n")
        return file

    def at(self, url: str, secret: Path, deadline_s: float = 3.0, **credential: str) -> RootSettings:
        told = {"source": "secret", "tenant_id": TENANT, "client_id": CLIENT, "secret_file": str(secret),
                "ca_bundle": str(self.vault.ca), "verify_challenge": "no", **credential}  # fmt: skip
        policy = RootPolicy(
            providers=("azure",), credentials={"azure": told}, vaults={HOST: "germanywestcentral"},
            endpoints={f"azure:{HOST}": url, "azure-login": self.vault.login.url},
        )  # fmt: skip
        return RootSettings(policy=policy, regions={"azure": ("germanywestcentral",)}, deadline_s=deadline_s)

    def rotate(self) -> None:
        self.key.rotate()

    def use_another_key(self) -> None:
        self.vault.keys[self.name] = self.key = Key(aes=self.key.aes)

    def disable(self) -> None:
        self.key.enabled[self.key.current] = False

    def enable(self) -> None:
        self.key.enabled[self.key.current] = True

    def schedule_deletion(self) -> None:
        self.key.deleted = True

    def delete(self) -> None:
        self.key.deleted = True
        self.vault.purged.add(self.name)

    def forbid(self) -> None:
        self.key.allowed = set()

    def unreachable(self) -> RootSettings:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return self.at(f"https://127.0.0.1:{free.getsockname()[1]}", self.secret(SECRET), 0.5)

    def slow(self) -> RootSettings:
        return self.at(f"https://127.0.0.1:{self.silent.getsockname()[1]}", self.secret(SECRET), 0.5)

    def bad_credential(self) -> RootSettings:
        return self.at(self.vault.url, self.secret("wrong"))

    def throttled(self) -> RootSettings:
        open_root(self.reference, self.settings).describe()  # signed in
        self.vault.vault.always = Answer(429, {"error": {"code": "Throttled", "message": "told to"}})
        return replace(self.settings, deadline_s=0.5)

    def throttled_once(self) -> RootSettings:
        self.vault.vault.faults = [Answer(429, {"error": {"code": "Throttled", "message": "told to"}})] * 2
        return self.settings

    def close(self) -> None:
        self.silent.close()
        self.vault.vault.always, self.vault.vault.faults = None, []


@pytest.fixture
def customer(vault: AzureVault, tmp_path: Path) -> Iterator[AzureCustomer]:
    one = AzureCustomer(vault, tmp_path)
    yield one
    one.close()


class TestAzureRoot(RootContract):
    @pytest.fixture(params=[False, True], ids=["rsa", "aes"])
    def customer(self, vault: AzureVault, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AzureCustomer]:
        one = AzureCustomer(vault, tmp_path, aes=request.param)
        yield one
        one.close()


@pytest.mark.parametrize("aes", [False, True])
def test_a_wrap_is_relied_on_only_when_the_vault_has_unwrapped_it(vault: AzureVault, tmp_path: Path, aes: bool) -> None:
    """The SDK wraps locally where it can: what it made must come back from the vault."""
    customer = AzureCustomer(vault, tmp_path, aes=aes)
    root = open_root(customer.reference, customer.settings)
    before = len(vault.vault.asked)
    root.wrap(KEK, CONTEXT)
    done = [asked.path.rpartition("/")[2] for asked in vault.vault.asked[before:] if asked.method == "POST"]
    assert done == (["wrapkey", "unwrapkey"] if aes else ["unwrapkey"])
    customer.key.allowed = {"get", "wrapKey"}
    refused("AccessDenied", lambda: root.wrap(KEK, CONTEXT))
    customer.close()


def test_an_alg_that_the_sdk_would_do_with_a_random_key_is_never_used() -> None:
    from azure.keyvault.keys.crypto import KeyWrapAlgorithm

    from openkcm.execution.roots import azure

    assert not {KeyWrapAlgorithm.aes_128, KeyWrapAlgorithm.aes_192, KeyWrapAlgorithm.aes_256} & set(
        azure._ALGORITHMS.values()
    )


def test_a_customer_may_let_us_unwrap_and_not_look(customer: AzureCustomer) -> None:
    root = open_root(customer.reference, customer.settings)
    wrapped, canary = root.wrap(KEK, CONTEXT), make_canary(root, KEK, CONTEXT)
    customer.key.allowed = {"unwrapKey"}
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    assert root.probe(canary, CONTEXT).version is None


@pytest.mark.parametrize(
    ("status", "inner", "code"),
    [(403, "KeyNotYetValid", "KeyDisabled"), (403, "ForbiddenByFirewall", "AccessDenied"), (401, None, "CredentialRejected"),
     (500, None, "Unreachable"), (503, None, "Unreachable"), (400, None, "WrongContext"), (408, None, "Unreachable")],
)  # fmt: skip
def test_what_the_vault_says_means_a_state(customer: AzureCustomer, status: int, inner: str | None, code: str) -> None:
    wrapped = open_root(customer.reference, customer.settings).wrap(KEK, CONTEXT)
    root = open_root(customer.reference, replace(customer.settings, deadline_s=0.5))
    said = {"error": {"code": "X", "message": "m", **({"innererror": {"code": inner}} if inner else {})}}
    customer.vault.vault.always = Answer(status, said)
    refused(code, lambda: root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT))


def test_the_token_file_of_a_workload_is_read_and_shown(customer: AzureCustomer) -> None:
    (file := customer.directory / "token").touch(0o600)
    for text, code in ((SECRET, None), ("another", "CredentialRejected")):
        file.write_text(text)
        settings = customer.at(customer.vault.url, file, source="workload", token_file=str(file))
        root = open_root(customer.reference, settings)
        if code is None:
            root.describe()
        else:
            refused(code, root.describe)
    file.chmod(0o644)
    refused("CredentialRejected", open_root(customer.reference, settings).describe)


def test_a_sign_in_that_is_away_takes_no_key_away(customer: AzureCustomer) -> None:
    policy = customer.settings.policy
    for port in (9, customer.silent.getsockname()[1]):
        away = replace(policy, endpoints={**policy.endpoints, "azure-login": f"https://127.0.0.1:{port}"})
        root = open_root(customer.reference, replace(customer.settings, policy=away, deadline_s=0.5))
        refused("Unreachable", root.describe)


def test_a_challenge_of_another_service_is_not_answered(customer: AzureCustomer) -> None:
    """Without the double's exception, the SDK checks that whoever asks for our token is the vault it asked."""
    settings = customer.at(customer.vault.url, customer.secret(SECRET), verify_challenge="yes")
    tokens = len(customer.vault.tokens)
    refused("Misconfigured", open_root(customer.reference, settings).describe)
    assert len(customer.vault.tokens) == tokens


def test_nothing_is_asked_of_a_vault_that_nobody_placed(customer: AzureCustomer) -> None:
    policy = customer.settings.policy
    for broken in (replace(policy, vaults={}), replace(policy, vaults={HOST: "westeurope"}), replace(policy, credentials={}),
                   replace(policy, endpoints={})):  # fmt: skip
        settings = replace(customer.settings, policy=broken)
        refused("Misconfigured", lambda s=settings: open_root(customer.reference, s))


def test_every_status_and_code_means_something_with_an_action() -> None:
    from openkcm.execution.roots import azure
    from openkcm.execution.roots.base import ACTIONS

    assert {*azure._STATUS.values(), *azure._INNER.values()} <= set(ACTIONS)
