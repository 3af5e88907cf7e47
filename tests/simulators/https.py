"""A TLS server in a thread for wire doubles: routes, a log of requests, faults. Loopback only."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from openkcm.cli.pki import Authority


class Asked(NamedTuple):
    method: str
    path: str
    query: str
    headers: Any
    body: bytes


class Answer(NamedTuple):
    status: int
    body: Any = None
    headers: dict[str, str] = {}


class Https:
    """One server. `answer(asked)` says what; `faults` are used up first; `delay_s` holds every answer back."""

    def __init__(self, authority: Authority, answer: Callable[[Asked], Answer]) -> None:
        self.answer, self.asked = answer, list[Asked]()
        self.faults: list[Answer] = []
        self.always: Answer | None = None
        self.delay_s = 0.0
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(self.command, path, query, self.headers, body)
                double.asked.append(asked)
                time.sleep(double.delay_s)
                said = double.always or (double.faults.pop(0) if double.faults else double.answer(asked))
                raw = b"" if said.body is None else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in {"Content-Type": "application/json", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = _do  # noqa: N815 -- the standard library's names

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # clients that gave up
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("https-double"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
