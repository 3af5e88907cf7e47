"""Exports: verified by our own code, by the shipped script, and by implementations that are not ours."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymerkle import InmemoryTree
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint

from audit.evidence import MADE, exported, life, replayed, signed, verify
from audit.sealed_ledger import CMK, ROOT, TENANT
from openkcm.audit import export
from openkcm.audit.trees import Tampered
from openkcm.audit.verify import AuditError
from openkcm.cli import sources

LEDGER, REVOCATION = life()


def canonical(*fields):
    """The length-prefixed fields of the README, written anew."""
    out = b""
    for field in fields:
        raw = field if isinstance(field, bytes) else str(field).encode()
        out += b"\xff\xff\xff\xff" if field is None else len(raw).to_bytes(4, "big") + raw
    return out


def leaf_data(record):
    sequence = int(record["sequence"])
    return canonical(
        "openkcm/leaf/1", max(1, sequence >> 40), sequence, record["subject"], base64.b64decode(record["original"])
    )


def records(folder, name="events.ndjson"):
    return [json.loads(line) for line in (folder / name).read_bytes().splitlines()]


def note(folder, tree):
    """Origin, size and root, read and its signature verified by sigstore and cryptography."""
    text = (folder / f"checkpoints/{tree}-1.txt").read_text()
    theirs = SignedCheckpoint.from_text(text)
    introduced = next(r for r in records(folder) if r["type"] == "openkcm.SigningKeyRotated.1")
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(introduced["data"]["public_key"]))
    body, _, signatures = text.rpartition("\n\n")
    key.verify(base64.b64decode(signatures.splitlines()[0].split(" ")[2])[4:], (body + "\n").encode())
    return theirs.checkpoint.log_size, bytes.fromhex(theirs.checkpoint.log_hash)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return exported(LEDGER, tmp_path_factory.mktemp("whole") / "export")


@pytest.fixture(scope="module")
def slice_(tmp_path_factory):
    return exported(LEDGER, tmp_path_factory.mktemp("slice") / "export", TENANT)


def test_a_whole_ledger_and_a_slice_verify(whole, slice_):
    assert verify(whole) == (len(LEDGER.entries), len(LEDGER.entries), ())
    events, proven, findings = verify(slice_)
    assert events == proven == len(records(slice_)) < len(LEDGER.entries)
    assert findings == ()


def test_a_slice_holds_its_tenants_events_and_the_trust_events_only(slice_):
    found = records(slice_)
    assert {r["tenant"] for r in found} == {TENANT, "_"}
    everything = b"".join(p.read_bytes() for p in slice_.rglob("*") if p.is_file())
    assert b"bolt" not in everything
    assert b"bolt" not in b"".join(base64.b64decode(r["original"]) for r in found)
    denied = [r for r in found if r["type"].startswith("openkcm.AccessDenied")]
    assert [r["data"]["tenant"] for r in denied] == [TENANT]


def test_an_independent_tree_gives_the_signed_roots(whole):
    for tree in ("eu-frankfurt", "global"):
        independent = InmemoryTree()
        for record in records(whole):
            if record["region"] == tree:
                independent.append_entry(leaf_data(record))
        size, root = note(whole, tree)
        assert independent.get_root(size) == root


def test_sigstore_verifies_every_inclusion_proof_of_a_slice(slice_):
    by_sequence = {int(r["sequence"]): r for r in records(slice_)}
    proofs = records(slice_, "proofs.ndjson")
    assert {p["sequence"] for p in proofs} == set(by_sequence)
    for proof in proofs:
        size, root = note(slice_, proof["tree"])
        shown = SimpleNamespace(
            log_index=proof["index"],
            tree_size=size,
            hashes=[base64.b64decode(p) for p in proof["path"]],
            root_hash=root,
        )
        leaf = leaf_data(by_sequence[proof["sequence"]])
        verify_merkle_inclusion(SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=shown, canonicalized_body=leaf)))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="aics-tlog needs Python 3.12")
def test_a_third_reader_verifies_checkpoints_and_proofs(slice_):
    import aics_tlog

    by_sequence = {int(r["sequence"]): r for r in records(slice_)}
    for proof in records(slice_, "proofs.ndjson"):
        read = aics_tlog.parse_note((slice_ / f"checkpoints/{proof['tree']}-1.txt").read_text())
        log = aics_tlog.vkey_from_ed25519(aics_tlog.parse_checkpoint(read.text).origin, CMK.public_key)
        assert aics_tlog.verify_checkpoint(read, log).ok
        size, root = note(slice_, proof["tree"])
        path = [base64.b64decode(p) for p in proof["path"]]
        leaf = aics_tlog.leaf_hash(leaf_data(by_sequence[proof["sequence"]]))
        assert aics_tlog.verify_inclusion(leaf, proof["index"], size, path, root)


def test_every_line_is_a_canonical_cloud_event(whole):
    for line in (whole / "events.ndjson").read_bytes().splitlines():
        record = json.loads(line)
        assert rfc8785.dumps(record) == line
        assert {"specversion", "id", "source", "type", "subject", "time", "data"} <= set(record)
        assert record["specversion"] == "1.0"
        assert all(name.isalnum() and name == name.lower() for name in record)


def test_every_ocsf_line_is_an_api_activity(whole):
    for record in records(whole, "ocsf.ndjson"):
        required = {"activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time", "metadata", "actor", "api",
                    "src_endpoint"}  # fmt: skip
        assert required <= set(record)
        assert (record["class_uid"], record["category_uid"]) == (6003, 6)
        assert record["type_uid"] == 600300 + record["activity_id"]
    denied = [r for r in records(whole, "ocsf.ndjson") if r["status"] == "Failure"]
    assert [r["api"]["operation"] for r in denied] == ["RevokeAccess", "RevokeAccess"]


def script(folder, *arguments):
    """The shipped check, in an interpreter that cannot import any of our code."""
    blocked = "import runpy, sys; sys.modules['openkcm'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-c", blocked, str(folder / "check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_shipped_script_checks_it_without_our_code(whole, slice_):
    root = base64.b64encode(ROOT.public_key).decode()
    for folder in (whole, slice_):
        done = script(folder, root)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"good: {len(records(folder))} events")
    assert "another trust root" in script(whole, base64.b64encode(bytes(32)).decode()).stderr


def test_nothing_is_written_over_and_an_unknown_tenant_has_no_export(whole, tmp_path):
    with replayed(LEDGER) as replay:
        for folder, tenant in ((whole, None), (tmp_path / "new", "stranger")):
            with pytest.raises(AuditError):
                export.write(folder, replay.writer, ROOT.public_key, signed(replay), tenant=tenant, made_at=MADE)
    assert not (tmp_path / "new").exists()


def rewritten(folder, target, change):
    """A copy whose file was changed, and whose manifest was made to fit."""
    shutil.copytree(folder, target)
    name = change(target)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((target / name).read_bytes()).hexdigest()
    found = records(target)
    manifest["events"], manifest["last"] = len(found), int(found[-1]["sequence"])
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def drop_line(number, name):
    def change(folder):
        raw = (folder / name).read_bytes().splitlines(keepends=True)
        del raw[number]
        (folder / name).write_bytes(b"".join(raw))
        return name

    return change


@pytest.mark.parametrize(("number", "says"), [(3, "sequence 4: missing"), (-1, "ends before it")])
def test_a_whole_export_with_an_event_less_is_found_though_its_manifest_fits(whole, tmp_path, number, says):
    bad = rewritten(whole, tmp_path / "bad", drop_line(number, "events.ndjson"))
    with pytest.raises(AuditError, match=says):
        verify(bad)
    assert script(bad).returncode != 0


def test_a_file_that_is_another_is_named_before_what_is_wrong_in_it(whole, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(whole, bad)
    drop_line(3, "proofs.ndjson")(bad)
    source = sources.of_export(bad)
    with pytest.raises(Tampered, match=r"proofs\.ndjson is not the file that was exported"), source.files_checked():
        source.trees()
    with pytest.raises(Tampered, match="the list of leaves is out of order"):
        sources.of_export(rewritten(whole, tmp_path / "fitting", drop_line(3, "proofs.ndjson"))).trees()


@pytest.mark.parametrize("sequence", [0, 1 << 62, 1 << 80])
def test_a_leaf_at_no_place_of_a_ledger_is_refused(whole, tmp_path, sequence):
    def moved(folder):
        first, rest = (folder / "proofs.ndjson").read_bytes().split(b"\n", 1)
        leaf = json.dumps({**json.loads(first), "sequence": sequence}).encode()
        (folder / "proofs.ndjson").write_bytes(leaf + b"\n" + rest)
        return "proofs.ndjson"

    with pytest.raises(Tampered, match=r"proofs\.ndjson, line 1"):
        sources.of_export(rewritten(whole, tmp_path / "bad", moved)).trees()


def test_a_slice_whose_proof_was_left_out_is_found(slice_, tmp_path):
    with pytest.raises(Tampered, match="without its proof"):
        verify(rewritten(slice_, tmp_path / "bad", drop_line(4, "proofs.ndjson")))


def test_a_checkpoint_of_another_key_is_found(whole, tmp_path):
    def sign_anew(folder):
        with replayed(LEDGER) as replay:
            (folder / "checkpoints/global-1.txt").write_text(str(signed(replay, ROOT)["global", 1]))
        return "checkpoints/global-1.txt"

    bad = rewritten(whole, tmp_path / "bad", sign_anew)
    with pytest.raises(Tampered, match="signed by no key"):
        verify(bad)
    with pytest.raises(InvalidSignature):
        note(bad, "global")
    assert script(bad).returncode != 0
