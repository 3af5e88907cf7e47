"""A worker's inside without its process: real arena, board, scratch and SQLite; the custodian answers on the spot."""

from __future__ import annotations

import os

import msgspec

from execution.kmip_client import create_request
from openkcm.contract import resources
from openkcm.execution import control, keyring
from openkcm.execution.arena import Board, Gate, RegionArena, Scratch, WorkerArena
from openkcm.execution.bench import Bench, Caller
from openkcm.execution.catalogue import _rows
from openkcm.execution.clock import boottime_ns
from openkcm.execution.exchange import Exchange
from openkcm.execution.handoutlog import HandOutLog
from openkcm.execution.objects import Objects
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip import decode_request, decode_response, encode_request
from openkcm.kmip.enums import ResultStatus
from openkcm.kmip.payloads.lifecycle import ActivateRequest
from openkcm.projector import open_reader, open_writer

HOUR_NS = 3600 * 10**9


def ok(item):
    assert item.status == ResultStatus.SUCCESS, (item.reason, item.message)
    return item.payload


class InProcess:
    """One system of one tenant, and a caller of it."""

    def __init__(self, folder, **identity):
        self.arena = RegionArena(slots=8, workloads=8)
        self.arena.set_alive(boottime_ns() + HOUR_NS)
        self.versions: dict[int, int] = {}
        self.word = self.arena.allocate_workload()
        self.arena.set_workload(self.word, Gate.OPEN)
        self.database = open_writer(folder / "node.sqlite", resources.ROOT / "projections" / "node")
        self.reader = open_reader(folder / "node.sqlite")
        worker = WorkerArena(os.dup(self.arena.fd), self.arena.size, self.arena.mode)
        scratch = Scratch()
        self.scratch = scratch._mapping.view
        self.board = Board(1)
        self.handed, fd = HandOutLog.open(folder / "handed")
        os.close(fd)
        objects = Objects(self.reader, worker)
        self.bench = Bench(worker, self.board.words, 0, self.scratch, objects, self, self.handed)
        self.puts: list[control.Put] = []
        self.told: list[control.Message] = []
        self.take_hand_outs = lambda: None
        self.refuse: list[str] = []
        self.sequence = 0
        self.state = "active"
        self.rotate(1)
        self.hand_out = identity.pop("hand_out", "allowed")
        given = {"max_objects": 9, **identity}
        who = control.Identity(0, "acme", "eu", "pay", "pay", "p", "e", self.word, *given.values())
        self.caller = Caller(who, self.bench.system("acme", "pay"), worker)

    def rotate(self, version):
        slot = self.arena.allocate()
        keyring.generate(self.arena.slot_view(slot))
        self.arena.set_lease(slot, boottime_ns() + HOUR_NS)
        self.arena.set_gate(slot, Gate.OPEN)
        for old in self.versions.values():
            self.arena.set_gate(old, Gate.DECRYPT_ONLY)
        self.versions[version] = slot

    def close(self, gate=Gate.REVOKED):
        self.state = "revoked"
        slots = list(self.versions.values())
        self.arena.close_gates(slots, gate)
        for slot in slots:
            self.arena.zeroize(slot)
            self.arena.raise_generation(slot)

    # --- the custodian's side (bench.Asker) ---------------------------------------------------------------------------

    def ask(self, question, then):
        match question(1):
            case control.KeysOf():
                slots = {} if self.state == "revoked" else self.versions
                found = {v: (s, self.arena.generation(s)) for v, s in slots.items()}
                then(control.Keys(1, "acme", "pay", max(found, default=0), found, self.state, self.hand_out))
            case control.Put() as put:
                self.puts.append(put)
                if self.refuse:
                    then(control.Refused(1, self.refuse.pop(), "no"))
                    return
                self.sequence += 1
                raw = msgspec.json.encode(put.record)
                self.database.apply(_rows("acme", self.sequence, put.record, raw))
                self.arena.bump_epoch("acme", put.record.uid)
                then(control.Stored(1, self.sequence))
            case control.Fetch():
                then(control.Record(1, 0, None))
            case control.HandOutsWait() as full:
                self.told.append(full)
                self.take_hand_outs()
                then(control.Taken(1))

    def tell(self, message):
        self.told.append(message)

    # --- the client's side --------------------------------------------------------------------------------------------

    def raw(self, data, operations=OPERATIONS):
        again = []
        exchange = Exchange(self.bench, self.caller, operations, decode_request(data), lambda: again.append(True))
        response = self._advance(exchange)
        while response is None:
            assert again, "the exchange waits for nothing"
            again.pop()
            response = self._advance(exchange)
        return response

    def _advance(self, exchange):
        self.bench.enter()
        try:
            return exchange.advance()
        finally:
            self.bench.leave()

    def items(self, *payloads, operations=OPERATIONS, **options):
        return decode_response(self.raw(encode_request(*payloads, **options), operations)).items

    def item(self, payload, **options):
        (item,) = self.items(payload, **options)
        return item

    def new_key(self, **options):
        made = self.item(create_request(**options))
        assert made.payload is not None, made.message
        self.item(ActivateRequest(unique_identifier=made.payload.unique_identifier))
        return made.payload.unique_identifier

    def end(self):
        self.database.close()
        self.reader.close()
        self.handed.close()
