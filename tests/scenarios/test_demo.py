"""The demo on a stack that starts empty: seven steps hold, and the auditor's commands say the same afterwards."""

import base64
import json
import re
import subprocess
import sys

import pytest

from running_stack import Stack


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("demo") / "state", "--empty")
    stack.up()
    try:
        done = stack.openkcm("demo", "--state", str(stack.state), "--json", "--backlog", "300")
        yield stack, done
    finally:
        stack.down()


def test_all_seven_steps_hold(played):
    _, done = played
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["held"]
    assert [step["number"] for step in told["steps"]] == [1, 2, 3, 4, 5, 6, 7]
    figures = told["steps"][3]["figures"]
    assert figures["routine events waiting at the nodes at the pull"] == 300
    assert any(name.startswith("order sent to gate closed") for name in figures)


def test_the_auditor_names_exactly_the_rogue_restores(played):
    stack, _ = played
    done = stack.openkcm("audit", "verify", "--state", str(stack.state), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["intact"]) == (2, True)
    assert [(f["tag"], f["code"]) for f in told["findings"]] == [("AccessRestored.1", "signatures")] * 4


def test_governances_tables_are_the_ledgers(played):
    stack, _ = played
    done = stack.openkcm("audit", "replay", "--state", str(stack.state), "--json")
    assert (done.returncode, json.loads(done.stdout)["equal"]) == (0, True), done.stdout + done.stderr


def test_the_account_says_who_obeyed(played):
    stack, _ = played
    done = stack.openkcm("audit", "account", "--state", str(stack.state), "--json", "--tenant", "acme")
    revoked = [o for o in json.loads(done.stdout)["orders"] if o["tag"] == "AccessRevoked.1"]
    assert [(o["outcome"], [w["node"] for w in o["obeyed"]]) for o in revoked] == [
        ("acked", ["eu-frankfurt-1"]), ("acked", ["us-virginia-1"]),
    ]  # fmt: skip


def test_what_is_exported_proves_itself_without_the_stack_and_names_nobody(played, tmp_path):
    stack, _ = played
    root = (stack.state / "trust" / "root.pub").read_text().strip()
    people = json.loads((stack.state / "idp" / "subjects.json").read_text())
    for tenant in (None, "acme"):
        folder = tmp_path / (tenant or "whole")
        only = ("--tenant", tenant) if tenant else ()
        done = stack.openkcm("audit", "export", str(folder), "--state", str(stack.state), *only, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["events"] == told["proven"] > 100
        alone = subprocess.run([sys.executable, folder / "check.py", root], capture_output=True, text=True, check=False)
        assert alone.stdout.startswith(f"good: {told['events']} events"), alone.stderr
        again = json.loads(stack.openkcm("audit", "verify", "--export", str(folder), "--root", root, "--json").stdout)
        assert (again["intact"], again["proven"], len(again["findings"])) == (True, told["events"], 4)
        written = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
        records = [json.loads(line) for line in (folder / "events.ndjson").read_bytes().splitlines()]
        written += b"".join(base64.b64decode(r["original"]) for r in records)
        assert [name for name in people if name.encode() in written] == []
        assert re.findall(rb"[\w.+-]+@[\w-]+\.[\w.]+", written) == []
        assert people["acme/admin"].encode() in written  # persons are there, as opaque subjects
    assert b"bolt" not in written


def test_names_come_from_a_directory_that_can_be_erased(played):
    stack, _ = played
    asked = ("audit", "account", "--state", str(stack.state), "--tenant", "acme")
    named = stack.openkcm(*asked, "--directory", str(stack.state / "idp" / "subjects.json")).stdout
    assert "acme/admin" in named
    assert "acme/admin" not in stack.openkcm(*asked).stdout


def test_a_receipt_proves_the_revocation_anywhere(played, tmp_path):
    stack, _ = played
    asked = ("audit", "receipt", "--tenant", "acme", "--region", "us-virginia")
    done = stack.openkcm(*asked, "--state", str(stack.state), "--out", str(tmp_path / "receipt"))
    assert done.returncode == 0, done.stdout + done.stderr
    root = (stack.state / "trust" / "root.pub").read_text().strip()
    for name in ("receipt.json", "receipt.html"):
        told = stack.openkcm("audit", "receipt", "--check", str(tmp_path / name), "--root", root, "--json")
        found = json.loads(told.stdout)
        assert (found["good"], found["summary"]["outcome"]) == (True, "acked"), told.stdout
        assert found["outside"]["handed_out"][0]["times"] > 0  # the demo's client asked for a key, and got it
    page = (tmp_path / "receipt.html").read_text().replace("Obeyed by every node", "Obeyed by no node")
    (tmp_path / "other.html").write_text(page)
    assert stack.openkcm("audit", "receipt", "--check", str(tmp_path / "other.html")).returncode == 1


def test_as_of_the_revocation_nobody_could_decrypt(played):
    stack, _ = played
    asked = ("--state", str(stack.state), "--json", "--tenant", "acme")
    orders = json.loads(stack.openkcm("audit", "account", *asked).stdout)["orders"]
    last = max(o["sequence"] for o in orders if o["tag"] == "AccessRevoked.1")
    for point, could in ((last + 2, "no"), (last - 2, "yes"), (10**9, "yes")):  # before, and after the restore
        told = json.loads(stack.openkcm("audit", "as-of", str(point), *asked).stdout)
        assert {a["could"] for home in told["residences"] for a in home["access"]} == {could}, told


def test_the_servers_are_as_declared(played):
    stack, _ = played
    done = stack.openkcm("streams", "diff", "--state", str(stack.state))
    assert (done.returncode, done.stdout.strip()) == (0, "all as declared"), done.stdout + done.stderr


def test_a_second_stack_on_the_same_directory_is_refused(played):
    stack, _ = played
    done = stack.openkcm("up", "--state", str(stack.state), "--detach")
    assert done.returncode == 1
    assert "runs on" in done.stdout + done.stderr
