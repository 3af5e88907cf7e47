"""The AWS root against MiniStack: the contract, and what must never be connected to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from contract_suites.roots import CONTEXT, KEK, RootContract
from loopback import free_ports
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import RootError, RootSettings
from simulators.ministack import REGION, MiniStack

_names = count()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    server = MiniStack(tmp_path_factory.mktemp("ministack"), *free_ports(1))
    yield server
    server.stop()


class AwsCustomer:
    def __init__(self, stack: MiniStack, directory: Path) -> None:
        self.stack, self.directory, self.name = stack, directory, f"acme-{next(_names)}"
        self.user = f"node-{self.name}"
        stack.create_node_user(self.user, directory / "credentials")
        self.key = stack.create_key()
        self.reference = RootReference(provider="aws", ref=stack.create_alias(self.name, self.key))
        policy = RootPolicy(
            providers=("aws",),
            endpoints={f"aws:{REGION}": stack.url},
            credentials={"aws": {"credentials_file": str(directory / "credentials")}},
        )
        self.settings = RootSettings(policy=policy, regions={"aws": (REGION,)}, deadline_s=1.0)

    @property
    def kms(self):
        return self.stack.client("kms")

    def rotate(self) -> None:
        self.stack.move_alias(self.name, self.stack.create_key())

    use_another_key = rotate

    def disable(self) -> None:
        self.kms.disable_key(KeyId=self.key)

    def enable(self) -> None:
        self.kms.enable_key(KeyId=self.key)

    def schedule_deletion(self) -> None:
        self.kms.schedule_key_deletion(KeyId=self.key, PendingWindowInDays=7)

    def forbid(self) -> None:
        self.stack.forbid(self.user)

    def at(self, url: str) -> RootSettings:
        return replace(self.settings, policy=replace(self.settings.policy, endpoints={f"aws:{REGION}": url}))

    def unreachable(self) -> RootSettings:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return self.at(f"http://127.0.0.1:{free.getsockname()[1]}")

    def slow(self) -> RootSettings:
        self._silent = socket.create_server(("127.0.0.1", 0))  # accepts in the kernel, and never says a word
        return replace(self.at(f"http://127.0.0.1:{self._silent.getsockname()[1]}"), deadline_s=0.3)

    def bad_credential(self) -> RootSettings:
        bad = self.directory / "bad"
        bad.write_text("[default]\naws_access_key_id = AKIANOBODYKNOWSTHIS0\naws_secret_access_key = wrong\n")
        return replace(
            self.settings, policy=replace(self.settings.policy, credentials={"aws": {"credentials_file": str(bad)}})
        )


@pytest.fixture
def customer(stack: MiniStack, tmp_path: Path) -> Iterator[AwsCustomer]:
    one = AwsCustomer(stack, tmp_path)
    yield one
    if hasattr(one, "_silent"):
        one._silent.close()


class TestAwsRoot(RootContract):
    @pytest.fixture
    def customer(self, stack: MiniStack, tmp_path: Path) -> Iterator[AwsCustomer]:
        one = AwsCustomer(stack, tmp_path)
        yield one
        if hasattr(one, "_silent"):
            one._silent.close()


def _refused(code: str, act) -> None:
    with pytest.raises(RootError) as no:
        act()
    assert no.value.code == code, no.value


def test_an_alias_that_was_deleted_is_not_found(customer: AwsCustomer) -> None:
    root = open_root(customer.reference, customer.settings)
    root.wrap(KEK, CONTEXT)
    customer.kms.delete_alias(AliasName=f"alias/{customer.name}")
    _refused("KeyNotFound", root.describe)
    _refused("KeyNotFound", lambda: root.wrap(KEK, CONTEXT))


def test_an_alias_moved_to_a_disabled_key_is_a_cut(customer: AwsCustomer) -> None:
    from openkcm.execution.roots.base import make_canary

    root = open_root(customer.reference, customer.settings)
    canary = make_canary(root, KEK, CONTEXT)
    customer.key = customer.stack.create_key()
    customer.disable()
    customer.stack.move_alias(customer.name, customer.key)
    _refused("KeyDisabled", lambda: root.probe(canary, CONTEXT))


def test_a_key_named_by_its_own_arn_works_and_no_other_answers_for_it(customer: AwsCustomer) -> None:
    root = open_root(replace(customer.reference, ref=customer.key), customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    _refused("WrongContext", lambda: root.unwrap(wrapped.ciphertext, customer.stack.create_key(), CONTEXT))


def test_a_customer_may_let_us_unwrap_and_not_look(customer: AwsCustomer) -> None:
    import json

    root = open_root(customer.reference, customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]}
    customer.stack.client("iam").put_user_policy(
        UserName=customer.user, PolicyName="unseal", PolicyDocument=json.dumps(policy)
    )
    assert root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT) == KEK
    assert root.describe().version is None


@pytest.mark.parametrize(
    "ref",
    ["", "alias/acme", "arn:aws:kms:eu-central-1:12345:key/x", "arn:aws:s3:eu-central-1:000000000000:key/x",
     "arn:aws:kms:eu-central-1:000000000000:key/", "arn:aws:kms:eu-central-1:000000000000:key/x\n",
     "arn:aws:kms:us-east-1:000000000000:key/x"],
)  # fmt: skip
def test_a_reference_that_is_no_arn_or_lies_in_another_cloud_region_is_refused(customer: AwsCustomer, ref: str) -> None:
    _refused("Misconfigured", lambda: open_root(RootReference(provider="aws", ref=ref), customer.settings))


def test_nothing_is_asked_without_an_endpoint_and_a_credential_in_node_toml(customer: AwsCustomer) -> None:
    policy = customer.settings.policy
    for broken in (replace(policy, endpoints={}), replace(policy, credentials={}),
                   replace(policy, credentials={"aws": {"secret": "x"}}),
                   replace(policy, credentials={"aws": {"role_arn": "arn:aws:iam::000000000000:role/x"}})):  # fmt: skip
        _refused("Misconfigured", lambda b=broken: open_root(customer.reference, replace(customer.settings, policy=b)))
    named = replace(customer.reference, credential="elsewhere")
    _refused("Misconfigured", lambda: open_root(named, customer.settings))


def test_a_role_is_assumed_and_its_refusal_is_ours_not_the_customers(customer: AwsCustomer) -> None:
    import json

    iam, policy = customer.stack.client("iam"), customer.settings.policy
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    role = iam.create_role(RoleName=f"r-{customer.name}", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=f"r-{customer.name}", PolicyName="p", PolicyDocument=json.dumps(allowed))
    endpoints = {**policy.endpoints, f"aws-sts:{REGION}": customer.stack.url}

    def settings(arn: str) -> RootSettings:
        credential = {**policy.credentials["aws"], "role_arn": arn, "external_id": "ours"}
        return replace(customer.settings, policy=replace(policy, endpoints=endpoints, credentials={"aws": credential}))

    may = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role}]}
    iam.put_user_policy(UserName=customer.user, PolicyName="assume", PolicyDocument=json.dumps(may))
    assert len(open_root(customer.reference, settings(role)).wrap(KEK, CONTEXT).ciphertext) > 32
    _refused("CredentialRejected", lambda: open_root(customer.reference, settings(role + "-other")).wrap(KEK, CONTEXT))


def test_every_code_of_kms_means_a_state_with_an_action() -> None:
    from openkcm.execution.roots import aws
    from openkcm.execution.roots.base import ACTIONS

    assert set(aws._CODES.values()) | set(aws._KEY_STATES.values()) <= set(ACTIONS)
