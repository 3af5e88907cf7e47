"""The state as of a point: who could decrypt then, on which nodes, and since when not; and the account beside it."""

import pytest

from audit.evidence import life, lines, replayed
from audit.sealed_ledger import NODE_NAME, REGION, ROOT, TENANT, SealedLedger
from openkcm.audit import asof
from openkcm.audit.account import Account
from openkcm.audit.examine import examine
from openkcm.audit.replay import Replay
from openkcm.audit.verify import AuditError

LEDGER, REVOCATION = life()
PLACE = {id_: sequence for sequence, _, _, id_ in LEDGER.entries}
ORDERED = PLACE[REVOCATION]


def time_of(sequence):
    return 1_000_000 + 10 * (sequence - 1)


def then(ledger, sequence, at_ms=None):
    words = asof.Obediences()
    examine(lines(ledger), ROOT.public_key, hear=[words.take])
    with Replay(ROOT.public_key) as replay:
        replay.take([line for line in lines(ledger) if line.sequence <= sequence])
        return asof.as_of(replay.writer, words, at_ms=at_ms, tenant=TENANT)


def only(answer):
    (home,) = answer.residences
    (access,) = home.access
    assert (home.tenant, home.region, access.node) == (TENANT, REGION, NODE_NAME)
    return home.state, access.could, access.since_ms


def test_before_any_workload_nobody_can():
    assert only(then(LEDGER, PLACE[REVOCATION] - 5)) == ("Active", "no", None)


def test_while_active_the_node_can_since_the_system_was_registered():
    home = then(LEDGER, ORDERED - 1).residences[0]
    assert home.workloads == ("app (payments)",)
    assert only(then(LEDGER, ORDERED - 1)) == ("Active", "yes", time_of(ORDERED - 5))


def test_after_the_order_until_the_nodes_own_word_and_no_longer():
    # The word came 10 ms after the order; the confirmation that holds it is the next event.
    assert only(then(LEDGER, ORDERED)) == ("Revoked", "until-obeyed", time_of(ORDERED) + 10)
    assert only(then(LEDGER, ORDERED, at_ms=time_of(ORDERED) + 9)) == ("Revoked", "until-obeyed", time_of(ORDERED) + 10)
    assert only(then(LEDGER, ORDERED, at_ms=time_of(ORDERED) + 10)) == ("Revoked", "no", time_of(ORDERED) + 10)


def test_after_the_restore_it_can_again():
    last = len(LEDGER.entries)
    assert only(then(LEDGER, last)) == ("Active", "yes", time_of(last))


def test_without_a_word_the_lease_is_the_bound():
    ledger, _ = life()
    ledger.entries = ledger.entries[:ORDERED]
    end = time_of(ORDERED) + 86_400_000
    assert only(then(ledger, ORDERED)) == ("Revoked", "until-obeyed", end)
    assert only(then(ledger, ORDERED, at_ms=end)) == ("Revoked", "no", end)


def test_a_time_is_the_last_event_that_claims_it_and_clocks_that_ran_back_are_counted():
    with replayed(LEDGER) as replay:
        assert asof.sequence_at(replay.writer, time_of(5) + 9) == 5
        with pytest.raises(AuditError):
            asof.sequence_at(replay.writer, 1)
    answer = then(LEDGER, 9, at_ms=time_of(7))
    assert (answer.sequence, answer.at_ms, answer.unordered) == (9, time_of(9), 2)
    assert "clock" in answer.clock


def test_the_account_names_silent_nodes_and_denied_attempts():
    account = Account()
    result = examine(lines(LEDGER), ROOT.public_key, hear=[account.take])
    revoked = next(o for o in account.orders(result.findings) if o.event == REVOCATION)
    assert (revoked.outcome, revoked.silent) == ("acked", ())
    assert [(x.by, x.action, x.tenant) for x in account.denied] == [
        ("mallory-1", "RevokeAccess", "bolt"), ("mallory-1", "RevokeAccess", TENANT),
    ]  # fmt: skip
    ledger = SealedLedger().open()
    ledger.revoke()
    account = Account()
    examine(lines(ledger), ROOT.public_key, hear=[account.take])
    assert [(o.outcome, o.silent) for o in account.orders() if o.tag == "AccessRevoked.1"] == [("open", (NODE_NAME,))]
