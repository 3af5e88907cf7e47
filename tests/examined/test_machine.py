"""A Hypothesis state machine around the production step: a hostile bus, people, governance that lies, crashes anywhere.

The model is told in sets: what was delivered, what two people lifted, what was acknowledged. It knows no rule of the node.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from examined.worlds import NODE, Node, begin, give, happen, home, restart
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.execution.inputs import Arrived, MirrorMeasured, ReadAgain, RootObserved
from openkcm.execution.residence_state import CLOSED, Mark, verdict
from press import Press, seed


class Bus(RuleBasedStateMachine):
    """One residence of one node."""

    node: Node

    @initialize()
    def begin(self) -> None:
        self.press = Press()
        self.node = begin(self.press)
        self.sent: list[tuple[int, env.Envelope]] = []
        self.revocations: list[env.Envelope] = []
        self.genuine: dict[int, frozenset[str]] = {}

    def send(self, e: env.Envelope) -> env.Envelope:
        self.press.sequence += 1
        self.sent.append((self.press.sequence, e))
        return e

    # --- what is sealed ---------------------------------------------------------------------------------------------

    @rule(epoch=st.sampled_from([1, 1, 2]))
    def revoke(self, epoch: int) -> None:
        counter = 1 + sum(r.epoch == epoch for r in self.revocations)
        e = self.press.residence("acme", d.AccessRevoked(reason="test"), epoch=epoch, counter=counter)
        self.revocations.append(self.send(e))

    @precondition(lambda self: self.revocations)
    @rule(data=st.data(), people=st.sampled_from(["two", "one", "strangers", "governance"]))
    def restore(self, data: st.DataObject, people: str) -> None:
        named = data.draw(st.lists(st.sampled_from(self.revocations), min_size=1, max_size=3, unique_by=lambda e: e.id))
        who = {
            "two": None,
            "one": {"p-ann": seed("ann")},
            "strangers": {"p-eve": seed("eve"), "p-mal": seed("mal")},
            "governance": {"p-ann": self.press.cmk, "p-bob": self.press.cmk},
        }[people]
        e = self.send(self.press.restore("acme", *named, people=who))
        self.genuine[e.counter] = frozenset(x.id for x in named) if people == "two" else frozenset()

    @rule(on=st.booleans())
    def suspend(self, on: bool) -> None:
        self.send(self.press.residence("acme", d.AccessSuspended(reason="test") if on else d.AccessResumed()))

    # --- what the bus does ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        sequence, e = data.draw(st.sampled_from(self.sent))
        lane = "critical" if ".critical." in e.subject else "routine"
        source = data.draw(st.sampled_from(["lane0", "critical"])) if lane == "critical" else "routine"
        again = data.draw(st.sampled_from([sequence, sequence, self.press.sequence + 1]))
        self.node = give(self.node, Arrived(source, again, e.subject, env.encode(e), 0, final=True))

    @precondition(lambda self: self.sent)
    @rule(lanes=st.sampled_from([("routine",), ("critical", "routine"), ("routine", "critical")]))
    def catch_up(self, lanes: tuple[str, ...]) -> None:
        """The mirrors bring all there is, in order, a lane after the other."""
        for lane in lanes:
            for sequence, e in self.sent:
                if f".{lane}." in e.subject:
                    self.node = give(self.node, Arrived(lane, sequence, e.subject, env.encode(e), 0, final=True))

    @rule()
    def happen(self) -> None:
        for _, after in happen(self.node):
            self.node = after
            return

    @rule()
    def crash(self) -> None:
        self.node = restart(self.node)

    @rule(lane=st.sampled_from(["routine", "critical"]))
    def read_again(self, lane: str) -> None:
        self.node = give(self.node, ReadAgain(lane))

    @rule(state=st.sampled_from(["ok", "KeyDisabled", "Unreachable"]))
    def root(self, state: str) -> None:
        self.node = give(self.node, RootObserved("acme", state))

    @rule(last=st.sampled_from([0, 1 << 50]))
    def measure(self, last: int) -> None:
        self.node = give(self.node, MirrorMeasured(last, last))

    # --- what must be true ------------------------------------------------------------------------------------------

    @invariant()
    def a_revocation_holds_until_two_people_lift_it(self) -> None:
        if not hasattr(self, "node"):
            return
        r = home(self.node)
        held = [e for e in self.revocations if e.counter in r.critical.get(e.epoch, Mark())]
        lifted = frozenset().union(*(ids for c, ids in self.genuine.items() if c in r.routine[1]))
        highest = {e.epoch: e for e in sorted(held, key=lambda e: e.counter)}
        if any(e.id not in lifted for e in highest.values()):
            assert verdict(r) in CLOSED
        else:
            assert verdict(r) != "revoked"

    @invariant()
    def what_was_acknowledged_is_held(self) -> None:
        if hasattr(self, "node"):
            marks = home(self.node).critical
            assert all(c in marks.get(epoch, Mark()) for epoch, c in self.node.acked)

    @invariant()
    def nothing_routine_is_applied_over_a_gap(self) -> None:
        if hasattr(self, "node"):
            assert all(not mark.above for mark in home(self.node).routine.values())
            assert self.node.mem.node == NODE[0]


Bus.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBus = pytest.mark.timeout(600)(Bus.TestCase)
