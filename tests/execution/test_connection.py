"""A connection alone, in this process: what the kernel is told about it."""

from __future__ import annotations

import asyncio
import socket

from execution.kmip_client import client_context
from openkcm.cli.pki import authority
from openkcm.contract.fleet import Limits
from openkcm.execution import control
from openkcm.execution.session import Session
from openkcm.execution.worker import Listener, tls_context
from openkcm.kmip import encode_request
from openkcm.kmip.payloads.server import QueryRequest


class Floor:
    """Where one connection lives; its custodian is asked and never answers."""

    def __init__(self) -> None:
        self.bench = self.link = self
        self.limits, self.loop, self.tick = Limits(), asyncio.get_running_loop(), 0
        self.unfinished = 0
        self.let_gos = 0
        self.asked = asyncio.get_running_loop().create_future()

    def ask(self, question, _then) -> None:
        self.asked.set_result(question(1))

    def count(self, what) -> None:
        raise AssertionError(what)

    def let_go(self) -> None:
        self.let_gos += 1

    def knocked(self, connection) -> None:
        connection.shake_hands()

    def shaken(self, _connection) -> None:
        pass

    left = shaken


async def test_a_clients_last_flight_is_acknowledged_at_once_so_that_its_first_request_need_not_wait(tmp_path):
    pki = authority(tmp_path)
    cert, key = map(str, pki.issue("node"))
    tls = tls_context(Listener(host="127.0.0.1", port=1, cert=cert, key=key, client_ca=str(pki.ca)))
    floor = Floor()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        mine, theirs = socket.create_connection(listening.getsockname()), listening.accept()[0]
    theirs.setblocking(False)
    session = Session(floor, tls.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False))
    # Our own flight has made the connection "interactive" by then, whose acknowledgements wait for something to send.
    context = client_context(*pki.issue_workload("acme", "pay"), pki.ca)
    with await asyncio.to_thread(context.wrap_socket, mine):
        assert isinstance(await asyncio.wait_for(floor.asked, 5), control.Identify)
        assert session._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        assert floor.let_gos, "a key was kept while hands were shaken"
        floor.let_gos = 0
        session._consume(encode_request(QueryRequest())[:-8])
        assert floor.let_gos, "a key was kept while a message came in parts"
        session.close()
