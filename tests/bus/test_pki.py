"""The stack's own certificates and nkeys, which the bus's servers and users are given."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from openkcm.bus.users import new_seed, public_key
from openkcm.cli import pki


def test_a_second_start_keeps_every_certificate_and_key(tmp_path: Path) -> None:
    first = pki.authority(tmp_path)
    paths = [*first.issue("hub"), *first.issue_workload("acme", "payments"), first.ca]
    before = [path.read_bytes() for path in paths]
    again = pki.authority(tmp_path)
    assert [*again.issue("hub"), *again.issue_workload("acme", "payments"), again.ca] == paths
    assert [path.read_bytes() for path in paths] == before
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in [*paths, tmp_path / "pki" / "ca.key"])


def test_certificates_of_another_ca_are_made_anew(tmp_path: Path) -> None:
    certificate, _ = pki.authority(tmp_path).issue("hub")
    old = certificate.read_bytes()
    (tmp_path / "pki" / "ca.pem").unlink()
    certificate, key = pki.authority(tmp_path).issue("hub")
    assert certificate.read_bytes() != old
    ssl.create_default_context().load_cert_chain(certificate, key)


def test_a_workloads_certificate_is_a_clients_only_and_can_carry_a_spiffe_id(tmp_path: Path) -> None:
    certificate, _ = pki.authority(tmp_path).issue_workload("acme", "payments", spiffe=True)
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://acme.local/payments"]
    usages = list(loaded.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_ca_whose_halves_do_not_belong_together_stops_the_start(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    pki.authority(one)
    pki.authority(other)
    (one / "pki" / "ca.key").write_bytes((other / "pki" / "ca.key").read_bytes())
    with pytest.raises(ValueError, match="do not belong together"):
        pki.authority(one)


def test_a_new_ca_is_trusted_beside_the_old_one_until_nobody_has_a_certificate_of_it(tmp_path: Path) -> None:
    old = pki.authority(tmp_path)
    server, workload = old.issue("hub")[0], old.issue_workload("acme", "payments")[0]
    before = server.read_bytes(), workload.read_bytes()
    pki.succeed(tmp_path)
    with pytest.raises(ValueError, match="retire it first"):
        pki.succeed(tmp_path)
    new = pki.authority(tmp_path)
    assert new.ca.read_bytes() == new.own + old.own
    assert (new.issue("hub")[0].read_bytes(), new.issue_workload("acme", "payments")[0].read_bytes()) == before
    pki.renew(tmp_path)
    assert new.issued(new.issue("hub")[0])
    assert workload.read_bytes() == before[1]
    with pytest.raises(ValueError, match=r"earlier CA: acme-payments$"):
        pki.retire(tmp_path)
    assert new.ca.read_bytes() == new.own + old.own
    workload.unlink()
    new.issue_workload("acme", "payments")
    pki.retire(tmp_path)
    assert pki.authority(tmp_path).ca.read_bytes() == new.own


def test_a_change_of_ca_that_ends_halfway_leaves_the_one_before(tmp_path: Path) -> None:
    old, key = pki.authority(tmp_path), (tmp_path / "pki" / "ca.key").read_bytes()
    pki.succeed(tmp_path)
    (tmp_path / "pki" / "ca.key").write_bytes(key)  # the last thing that is written
    assert pki.authority(tmp_path).own == old.own


def test_a_users_seed_has_one_public_key_and_anything_else_is_refused() -> None:
    seed = new_seed()
    assert public_key(seed) == public_key(seed + b"\n")
    assert public_key(seed).startswith("U")
    assert public_key(new_seed()) != public_key(seed)
    for bad in (b"", b"SU", seed[:-2], b"not a seed"):
        with pytest.raises(ValueError, match="nkey"):
            public_key(bad)
