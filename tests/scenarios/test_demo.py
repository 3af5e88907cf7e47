"""The demo on a stack that starts empty: seven steps hold, and the auditor's commands say the same afterwards."""

import json

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


def test_the_servers_are_as_declared(played):
    stack, _ = played
    done = stack.openkcm("streams", "diff", "--state", str(stack.state))
    assert (done.returncode, done.stdout.strip()) == (0, "all as declared"), done.stdout + done.stderr


def test_a_second_stack_on_the_same_directory_is_refused(played):
    stack, _ = played
    done = stack.openkcm("up", "--state", str(stack.state), "--detach")
    assert done.returncode == 1
    assert "runs on" in done.stdout + done.stderr
