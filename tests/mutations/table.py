"""Every guard of the kill switch, how it is removed, and who notices. A patch that no longer applies is an error.

`caught_by` is one of
    world:NAME              a small world of `examined.worlds` finds a bad state
    sim:FEATURE+...:N       one of the first N seeds of the simulator with these faults breaks a promise
    test:FILE::NAME         a test of that room fails
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MUTATIONS", "Mutation"]

E, G, C = "openkcm.execution.", "openkcm.governance.", "openkcm.contract."
DESIRED, CUSTODIAN = "test:tests/execution/test_desired.py::", "test:tests/execution/test_custodian.py::"
DRIFT, REREAD = "test:tests/governance/test_drift.py::", "test:tests/execution/test_reread.py::"
PENDING = "test:tests/governance/test_pending.py::"


class Mutation(NamedTuple):
    """One guard removed: `old`, exactly once in the module's source, becomes `new`."""

    guard: str
    module: str
    old: str
    new: str
    caught_by: str


TREE: Final = "test:tests/execution/test_mirrored.py::"

M = Mutation
# fmt: off
MUTATIONS: Final[tuple[Mutation, ...]] = (
    # --- the order of the kill switch
    M("gate", E + "gates", "self.arena.close_gates(slots, GATE_OF[state])  # (1)", "pass  # (1)", "sim::8"),
    M("zeroize", E + "gates", "            self.arena.zeroize(slot)\n            self.arena.raise_generation(slot)\n        self._drain()  # (3)\n        self._cancel(tenant)", "            pass\n        self._drain()  # (3)\n        self._cancel(tenant)", "sim::8"),
    M("drain", E + "gates", "        self._drain()  # (3)\n        self._cancel(tenant)", "        self._cancel(tenant)", "test:tests/execution/test_gates.py::test_closing_closes_wipes_raises_drains_and_kills_the_unsealers_in_this_order"),
    M("ticket", E + "gates", "        self._tickets[tenant] = self.ticket(tenant) + 1\n        self._states", "        self._states", "test:tests/execution/test_gates.py::test_closing_closes_wipes_raises_drains_and_kills_the_unsealers_in_this_order"),
    M("kill the unsealers", E + "gates", "        self._cancel(tenant)\n", "", "test:tests/execution/test_gates.py::test_closing_closes_wipes_raises_drains_and_kills_the_unsealers_in_this_order"),
    M("close before all else", E + "custodian", "self._gates.close(effect.tenant, verdict(self.state.residences[effect.tenant]))  # (1) (2) (3)", "pass", "sim::8"),
    M("cut", E + "custodian", "self._gates.cut(effect.tenant, effect.names)", "pass", CUSTODIAN + "test_a_removed_workload_is_cut_before_its_removal_is_acknowledged"),
    M("mark before ack", E + "custodian", "await self._on_disk([e for effects, _ in batch for e in effects])  # (4)", "asyncio.ensure_future(self._on_disk([e for effects, _ in batch for e in effects]))", CUSTODIAN + "test_a_full_disk_delays_the_ack_and_not_the_gate"),
    M("ack from the disk", E + "custodian", "state = self.durable\n", "state = self.state\n", CUSTODIAN + "test_an_ack_says_what_is_on_the_disk_and_not_what_is_only_in_memory"),
    M("fence before ack", E + "custodian", "while residence.revocations or residence.destroyed:", "while False:", CUSTODIAN + "test_a_later_decree_is_not_acknowledged_while_an_earlier_revocations_fence_is_not_in_the_vault"),
    M("ack again after a restart", E + "custodian", "        self.settle(tenant)\n        self._obey(tenant)", "        self.settle(tenant)", CUSTODIAN + "test_a_restarted_node_says_again_what_it_keeps"),
    M("no retired key on lane0", E + "judge", 'm.source == "lane0" and e.key in state.retired', "False", DESIRED + "test_on_lane0_a_retired_key_asks_for_our_ack_again_and_nothing_else"),
    M("rotations by the lane", E + "judge", 'isinstance(decree, (d.SigningKeyRotated, d.LedgerOpened)) and m.source == "lane0"', "False", DESIRED + "test_from_where_on_a_key_is_retired_the_lane_says_and_not_the_signal"),
    M("ack again when repeated", E + "judge", "return r, _affirmed(r)[:-1]  # repeated", "return r, []  # repeated", DESIRED + "test_a_revocation_repeated_on_lane0_is_acknowledged_again_behind_its_fence_record"),
    M("ack a routine one again when repeated", E + "judge", '_affirmed(r)[-1:] if m.source == "lane0" else []', "[]", DESIRED + "test_a_routine_decree_repeated_on_lane0_is_acknowledged_again_and_in_the_mirror_is_a_duplicate"),
    M("ack again in a new epoch", E + "judge", '[Effect("commit"), *again]', '[Effect("commit")]', DESIRED + "test_a_new_epoch_has_everything_acknowledged_anew"),
    # --- whose word it is
    M("seal", E + "judge", "env.verify(e, str(where), book)", "pass", "sim:forgery:60"),
    M("subject in the seal", C + "envelope", "if envelope.subject != subject:", "if False:", DESIRED + "test_a_decree_found_under_another_subject_than_the_sealed_one_is_dropped"),
    M("lane by class", E + "judge", "if kind is not None and (kind.aggregate, kind.lane) != (where.kind, where.lane):", "if False:", DESIRED + "test_a_routine_tag_on_the_critical_lane_is_dropped"),
    M("own region", E + "judge", 'if where.region != state.region and (where.region, where.tenant) != ("global", NOBODY):', "if False:", DESIRED + "test_a_foreign_regions_decree_is_dropped"),
    M("a retired key stays retired", E + "sealing", "if x.key in retired:", "if False:", DESIRED + "test_a_retired_key_seals_what_came_before_and_nothing_after_in_whatever_order_the_rotations_come"),
    M("a retired key seals nothing new", C + "retirement", "return sequence < ends[epoch]", "return True", DESIRED + "test_a_retired_key_seals_what_came_before_and_nothing_after_in_whatever_order_the_rotations_come"),
    M("an epoch's opening ends what was retired before", E + "sealing", "elif isinstance(decree, d.LedgerOpened) and decree.epoch == epoch_of(sequence):", "elif False:", DESIRED + "test_in_a_restored_ledger_a_retired_key_sealed_what_lies_before_its_end_and_nothing_behind"),
    M("and nothing that was retired after it", E + "sealing", "if min(ends) < decree.epoch}", "if True}", DESIRED + "test_an_opening_that_is_read_again_ends_no_key_that_was_retired_in_its_own_epoch"),
    M("a retirement holds where a restore put it", E + "judge", "        return placed(state, decree, m.sequence), []", "        return state, []", DESIRED + "test_in_a_restored_ledger_a_retired_key_sealed_what_lies_before_its_end_and_nothing_behind"),
    M("where it lies first", C + "retirement", "min(sequence, ends.get(epoch, sequence))", "sequence", DESIRED + "test_the_first_place_of_a_retirement_in_a_stream_counts"),
    M("the other lane waits for it", C + "retirement", "return in_order or epoch < min(ends)", "return True", DESIRED + "test_a_routine_decree_under_a_retired_key_waits_until_a_restored_ledger_says_where_that_ends"),
    # --- marks and gaps
    M("routine gap", E + "judge", "if e.counter != mark.floor + 1:", "if False:", "world:RoutineGap"),
    M("mark is no maximum", E + "residence_state", "return counter <= self.floor or counter in self.above", "return counter <= max((self.floor, *self.above))", "world:CriticalGap"),
    M("mark grows by what was applied", E + "residence_state", "while floor + 1 in above:", "while above and floor < max(above):", "world:CriticalGap"),
    M("critical gap behind lane0", E + "judge", "if missing and not r.missing_critical:", "if False:", "world:CriticalGap"),
    M("gap behind the mirror's place", E + "judge", 'passed = m.source == "critical" or m.sequence <= state.cursor_critical', 'passed = m.source == "critical"', DESIRED + "test_what_lane0_brings_again_of_what_the_mirror_had_brought_shows_what_else_was_lost"),
    M("frozen until readable", E + "residence_state", '(bool(r.unreadable) or r.missing_critical, "frozen")', '(r.missing_critical, "frozen")', DESIRED + "test_an_unreadable_critical_decree_locks_the_residence"),
    M("what is skipped is read again", E + "desired", "cursor = min(state.cursor_routine, min(starts) - 1)", "cursor = state.cursor_routine", DESIRED + "test_what_came_under_a_key_not_yet_announced_is_read_again_once_it_is"),
    M("from its start when that did not help", E + "judge", "frozen_at=1 if r.thawed else at", "frozen_at=at", DESIRED + "test_a_gap_below_what_was_appended_again_has_the_lane_read_from_its_start_the_second_time"),
    M("smaller than mark", E + "desired", "behind = m.last_routine < state.seen_routine or m.last_critical < state.seen_critical", "behind = False", DESIRED + "test_a_mirror_smaller_than_the_mark_is_an_alarm_and_enables_nothing"),
    M("a hole in the mirror is no fork", E + "mirrored", "if point.size > kept.edge.size or sequence > point.sequence:", "if point.size > kept.edge.size:", TREE + "test_a_mirror_that_lacks_an_event_says_so_as_soon_as_it_is_past_it"),
    M("a hole is noticed", E + "mirrored", "                self.kept, self.lacking = replace(kept, lacks=point), True\n", "                pass\n", TREE + "test_a_mirror_that_lacks_an_event_says_so_as_soon_as_it_is_past_it"),
    M("more than was signed is a fork", E + "mirrored", "if edge.root() != point.root or sequence != point.sequence:", "if edge.root() != point.root and sequence == point.sequence:", TREE + "test_a_mirror_with_more_than_was_signed_is_a_fork"),
    M("whole is what covers the hole", E + "mirrored", "lacks = None if kept.lacks is None or kept.lacks.size <= point.size else kept.lacks", "lacks = None", TREE + "test_what_a_mirror_lacked_is_there_when_it_agrees_with_a_checkpoint_that_covers_it_and_not_before"),
    M("a mirror with a hole enables nothing", E + "judge", "if state.halted is not None:", "if state.fork is not None:", DESIRED + "test_a_mirror_that_lacks_events_enables_nothing_until_it_is_whole"),
    M("a mirror with a hole opens nothing", E + "keychain", "if state.halted is not None and not", "if state.fork is not None and not", "test:tests/execution/test_keychain.py::test_a_node_that_sees_less_or_another_history_than_it_should_opens_nothing"),
    M("a hole outlives a restart", E + "rows", "    short: str | None = None\n", "", DESIRED + "test_a_mirror_that_lacks_events_enables_nothing_until_it_is_whole"),
    M("a mirror with a hole is read again", E + "treewatch", "                self.tree.again()\n            except", "                pass\n            except", "test:tests/execution/test_treewatch.py::test_a_hole_in_its_mirror_halts_a_node_until_the_mirror_is_mended"),
    M("own cursor at start", E + "feeds", 'await self._readers["critical"].reset(self._custodian.state.cursor_critical)', 'await self._readers["critical"].reset(1 << 60)', "sim:kills:20"),
    M("the lease of a node without memory", E + "feeds", "if not self._without_memory or await", "if not self._without_memory or True or await", "test:tests/execution/test_feeds.py::test_a_node_without_memory_opens_only_behind_the_routine_lane_too"),
    # --- what a node holds against what the ledger says
    M("digests are compared", G + "drift", "if check.digest == mine:", "if True:", "sim:corruption:8"),
    M("a node that stands still lacks something", G + "drift", "if behind and not self._stands_still(seen) and seen.busy < BUSY:", "if behind:", DRIFT + "test_a_node_that_stands_still_below_the_ledger_lacks_something"),
    M("what is on its way is no drift", G + "drift", "if on_its_way and _counters(theirs) != _counters(own):", "if False:", DRIFT + "test_under_constant_change_residences_at_the_same_counters_are_compared_and_no_others"),
    M("only the same is compared", G + "drift", "or not canon.comparable(check.digest, mine) or ahead:", ":", DRIFT + "test_nothing_is_compared_that_is_not_the_same"),
    M("a lost fact is taken again", E + "judge", "if _lost(state, r, e, m):", "if False:", REREAD + "test_a_critical_decree_told_again_on_lane0_is_obeyed_when_its_fact_was_lost"),
    M("critical facts are never unread", E + "reread", "        removed=before.removed | told.removed,", "        removed=told.removed,", REREAD + "test_critical_facts_of_ours_are_kept_even_when_a_whole_mirror_does_not_tell_them"),
    M("a short mirror heals nothing", E + "reread", "after = _joined(before, told) if not short else", "after = _joined(before, told) if True else", REREAD + "test_a_mirror_that_holds_less_than_the_mark_lifts_nothing_and_closes_the_residence"),
    M("a long history gives way to a revocation", E + "feeds", "if sum(map(len, found.values())) <= TURN:", "if True:", REREAD + "test_a_revocation_does_not_wait_until_a_long_history_is_read_again"),
    M("a residence that a short mirror closed is read again", E + "digests", "whole=not (r.missing_critical or r.unreadable),", "", REREAD + "test_a_residence_that_a_short_mirror_closed_opens_when_the_mirror_is_whole"),
    # --- what lifts
    M("two people", E + "decree_rules", "if len(good) < r.quorum:", "if len(good) < 1:", "world:Lattice"),
    M("approvers follow each other", E + "decree_rules", "if x.version != r.approvers_version + 1 or x.previous != r.approvers_hash:", "if False:", DESIRED + "test_a_set_of_approvers_that_names_another_history_is_refused"),
    M("approvers signed by the old", E + "decree_rules", "    if r.approvers_version:\n        _signed(r, statements.approvers_statement", "    if False:\n        _signed(r, statements.approvers_statement", "world:Approvers"),
    M("region in what people sign", C + "statements", "STATEMENT_DOMAIN, self.tenant, self.region, self.command", "STATEMENT_DOMAIN, self.tenant, self.command", "world:Approvers"),
    M("a restore names ids", E + "decree_rules", "r.lifted | {lift.event for lift in x.lifts}", "r.lifted | {v.event for v in r.revocations.values() for x_ in x.lifts if x_.fence >= v.fence}", "world:Lattice"),
    M("every epoch must be lifted", E + "residence_state", "unlifted = any(revocation.event not in r.lifted for revocation in r.revocations.values())", "unlifted = bool(r.revocations) and r.revocations[max(r.revocations)].event not in r.lifted", "world:Lattice"),
    M("the highest counts", E + "decree_rules", "if highest is not None and highest.fence >= e.counter:", "if False:", "world:Lattice"),
    M("emergency floors are maxima", E + "decree_rules", "max(x.below, r.floors.get(key, 0))", "x.below", DESIRED + "test_an_older_emergency_floor_does_not_lower_a_newer_one"),
    M("a longer lease takes two", E + "decree_rules", "if r.configured and x.lease_s > r.lease_s:", "if False:", DESIRED + "test_a_longer_lease_needs_two_people_and_a_shorter_one_none"),
    M("an approval is used once", E + "decree_rules", "if approval is None or approval in r.approvals_used:", "if approval is None:", DESIRED + "test_a_longer_lease_needs_two_people_and_a_shorter_one_none"),
    # --- leases and T
    M("boot of the lease", E + "residence_state", "beat[0] != self.boot_id", "False", "world:Reboot"),
    M("the smaller lease of then and now", E + "residence_state", "min(residence.lease_s, residence.lease_at(sent))", "residence.lease_s", DESIRED + "test_a_longer_lease_does_not_lengthen_what_an_older_nonce_is_worth"),
    M("the head named is ours", E + "desired", 'if state.recent_heads.get(sequence, b"").hex() != head:', "if False:", DESIRED + "test_a_beat_of_another_history_renews_nothing_when_its_head_comes_later"),
    M("the head is applied", E + "desired", "if state.waiting_beat is None or state.waiting_beat[0] > state.cursor_critical:", "if state.waiting_beat is None:", DESIRED + "test_a_beat_whose_head_is_not_applied_yet_waits_for_it"),
    M("an unknown key has the lane read again", E + "desired", "return replace(state, forked=True), alarms", "return state, alarms", DESIRED + "test_beats_by_a_key_whose_announcement_was_kept_from_us_have_the_critical_lane_read_again"),
    M("own nonces only", E + "desired", "sent = max((state.nonces[n] for n in beat.nonces if n in state.nonces), default=None)", "sent = max((state.nonces.get(n, 10**15) for n in beat.nonces), default=None)", DESIRED + "test_a_beat_that_echoes_a_foreign_nonce_renews_nothing"),
    M("head read after the nonce", G + "beat", "last = await self._ledger.leader_last(filters_of(region), since_s=since_s)  # (2)", "last = None", "sim::4"),
    M("no older head than known", G + "beat", "if known > (0 if last is None else last.sequence):  # (5)", "if False:", "test:tests/governance/test_beat.py::test_a_leader_that_names_an_older_head_than_was_read_or_written_gets_no_beat"),
    M("a tenant left out keeps its lease", E + "residence_state", "beat = self.withheld.get(residence.tenant, self.beat)", "beat = self.beat", "world:Withheld"),
    M("left out twice, it is the first beat's", E + "desired", "{t: state.withheld.get(t, state.beat) for t in left_out}", "{t: state.beat for t in left_out}", "world:Withheld"),
    M("a restart forgets nobody left out", E + "rows", "    withheld: dict[str, tuple[str, int] | None] = {}\n", "", "world:Withheld"),
    M("beats leave out whose revocation is spooled", G + "beat", "withheld = self._withheld(region)  # (6)", "withheld = ()", "sim:full:40"),
    M("who does not run alone promises no T for the spool", G + "watch", " - spooled_s if self.alone else None", " - spooled_s", "sim:full:40"),
    M("too many to leave out: no beat", G + "beat", "if len(withheld) > reports.MOST_WITHHELD:", "if False:", "test:tests/governance/test_beat.py::test_with_more_tenants_to_leave_out_than_a_beat_holds_there_is_none"),
    M("T counts the lease", G + "pending", "return lease_s * (1 + DRIFT_RATIO) + DRIFT_S", "return DRIFT_S", "sim:partitions:20"),
    M("T counts the lease not yet replaced", G + "pending", "longest = max([longest, *still, *in_force, ack.lease_s if ack else 0])", "longest = max([longest, ordered[-1][2] if ordered else 0])", PENDING + "test_the_longest_lease_is_the_longest_not_yet_replaced_in_every_node"),
    M("all nodes must have acked", G + "pending", 'if nodes and not waiting:\n        return Status(counter, "Revoked"', 'if len(acked) > 0:\n        return Status(counter, "Revoked"', "sim:pauses:30"),
    M("an ack is the node's own", G + "inbox", "env.verify(e, message.subject, {e.key: public})  # (2)", "pass  # (2)", "test:tests/examined/test_messages.py::test_a_report_that_is_not_the_nodes_own_is_heard_by_nobody"),
    M("a removed node counts while its lease may run", G + "pending", "if n.removed_for_s is None or n.removed_for_s <= lease_s * (1 + DRIFT_RATIO) + DRIFT_S", "if n.removed_for_s is None", PENDING + "test_a_removed_node_counts_until_its_last_lease_is_over"),
    M("an answered revocation is in the spool", G + "killswitch", "await asyncio.to_thread(self._spool.put, *(self._spooled(tenant, intent) for intent in late))", "pass", "sim:hub+cmk:40"),
    M("a conflict has the lane read", G + "registry", 'if attempt or where.lane != "critical"', 'if where.lane != "critical"', "test:tests/governance/test_race.py::test_two_cmks_at_once_never_give_one_counter_twice"),
    M("a revocation is resent", G + "killswitch", "if entry.id in self._busy or not self._connected():", "if True:", "sim:hub:40"),
    M("a key that is announced", G + "registry", "if e.key not in self._projection.signing_keys:", "if False:", "test:tests/governance/test_own_key.py::test_nothing_is_sealed_with_a_key_that_the_ledger_does_not_announce"),
    M("repeated in its own epoch", G + "watch", "floors = [acks[n].mark(at)[0] if n in acks", "floors = [acks[n].floor if n in acks", PENDING + "test_a_revocation_of_an_older_epoch_is_repeated_until_every_node_has_acknowledged_it_in_that_epoch"),
    M("expectation", G + "registry", "expected_last=cached.cursors[lane]", "expected_last=None", "test:tests/governance/test_race.py::test_two_cmks_at_once_never_give_one_counter_twice"),
    # --- many residences at once
    M("those that wait for a root hold no cells", E + "keychain", "async with self._makers[root.provider]:", "if True:", "test:tests/execution/test_keychain.py::test_after_a_start_all_that_fit_come_back_however_many_wait_for_their_root_at_once"),
    M("orders wait for the prober", E + "unseal_probe", "            except BlockingIOError:\n                asyncio", "            except InterruptedError:\n                asyncio", "test:tests/execution/test_unseal.py::test_more_watches_than_the_socket_holds_wait_for_a_prober_that_is_slow"),
)
# fmt: on
