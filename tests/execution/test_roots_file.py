"""The file root: the contract, and what a key file may look like."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from contract_suites.roots import CONTEXT, KEK, RootContract
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import RootError, RootSettings


def line(version: int) -> str:
    return f"v{version}:{base64.b64encode(os.urandom(32)).decode()}\n"


class FileCustomer:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "acme.keys"
        self.write(line(1))
        self.reference = RootReference(provider="file", ref=str(self.path))
        self.settings = RootSettings(policy=RootPolicy(providers=("file",), directories=(str(directory),)))

    def write(self, text: str, mode: int = 0o600) -> None:
        self.path.write_text(text)
        self.path.chmod(mode)

    def rotate(self) -> None:
        self.write(self.path.read_text() + line(self.path.read_text().count("\n") + 1))

    def use_another_key(self) -> None:
        self.write(line(1))

    def delete(self) -> None:
        self.path.unlink()


@pytest.fixture
def customer(tmp_path: Path) -> FileCustomer:
    return FileCustomer(tmp_path)


class TestFileRoot(RootContract):
    @pytest.fixture
    def customer(self, tmp_path: Path) -> FileCustomer:
        return FileCustomer(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(customer: FileCustomer, mode: int) -> None:
    root = open_root(customer.reference, customer.settings)
    customer.path.chmod(mode)
    with pytest.raises(RootError, match="0600") as no:
        root.wrap(KEK, CONTEXT)
    assert no.value.code == "Misconfigured"
    assert not any(customer.path.read_text()[3:20] in text for text in (str(no.value), no.value.detail))


BAD = {
    "empty": ("", "KeyNotFound"),
    "no version": ("QUJD\n", "Misconfigured"),
    "short": ("v1:QUJD\n", "Misconfigured"),
    "twice": (line(1) + line(1), "Misconfigured"),
    "version 0": ("v0:" + line(1)[3:], "Misconfigured"),
    "not ascii": ("v1:\xe9\n", "Misconfigured"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_key_file_that_is_none_is_refused_without_quoting_it(customer: FileCustomer, name: str) -> None:
    text, code = BAD[name]
    customer.write(text)
    with pytest.raises(RootError) as no:
        open_root(customer.reference, customer.settings).wrap(KEK, CONTEXT)
    assert no.value.code == code
    assert "QUJD" not in str(no.value)


def test_a_version_whose_line_was_taken_out_is_not_found(customer: FileCustomer) -> None:
    root = open_root(customer.reference, customer.settings)
    wrapped = root.wrap(KEK, CONTEXT)
    customer.rotate()
    customer.write(customer.path.read_text().splitlines(keepends=True)[1])
    with pytest.raises(RootError) as no:
        root.unwrap(wrapped.ciphertext, wrapped.root_version, CONTEXT)
    assert no.value.code == "KeyNotFound"


@pytest.mark.parametrize("ref", ["/etc/shadow", "../other.keys", "sub/../../other.keys", "", ".", "..", "/"])
def test_a_path_outside_the_allowed_directories_is_refused(customer: FileCustomer, ref: str) -> None:
    with pytest.raises(RootError) as no:
        open_root(RootReference(provider="file", ref=ref), customer.settings)
    assert no.value.code == "Misconfigured"


def test_a_link_out_of_the_directory_is_refused(customer: FileCustomer, tmp_path: Path) -> None:
    elsewhere = tmp_path.parent / "elsewhere.keys"
    elsewhere.write_text(line(1))
    elsewhere.chmod(0o600)
    customer.path.unlink()
    customer.path.symlink_to(elsewhere)
    with pytest.raises(RootError) as no:
        open_root(customer.reference, customer.settings).wrap(KEK, CONTEXT)
    assert no.value.code == "Misconfigured"


def test_a_relative_name_is_looked_for_in_each_allowed_directory(customer: FileCustomer, tmp_path: Path) -> None:
    other = tmp_path / "none-here"
    other.mkdir()
    policy = RootPolicy(providers=("file",), directories=(str(other), str(tmp_path)))
    root = open_root(RootReference(provider="file", ref="acme.keys"), RootSettings(policy=policy))
    assert root.describe().version == "v1"


def test_a_provider_that_node_toml_does_not_allow_is_refused(customer: FileCustomer) -> None:
    with pytest.raises(RootError) as no:
        open_root(customer.reference, RootSettings(policy=RootPolicy(providers=("gcp",))))
    assert no.value.code == "Misconfigured"
