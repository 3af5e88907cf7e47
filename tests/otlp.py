"""A receiver of spans: OTLP over HTTP, decoded by OpenTelemetry's own package. Can be told not to answer."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What came in: (service, instance, span). While `answers` is cleared every request waits."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.waiting = 0
        self.answers = threading.Event()
        self.answers.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not collector.answers.is_set():
                    collector.waiting += 1
                    collector.answers.wait()
                packed = self.headers.get("Content-Encoding") == "gzip"
                collector.raw.append(gzip.decompress(body) if packed else body)
                with contextlib.suppress(OSError):
                    self.send_response(200 if self.path == "/v1/traces" else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def spans(self, trace_id: str) -> Iterator[tuple[str, str, Span]]:
        for raw in list(self.raw):
            for of_resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
                who = {a.key: a.value.string_value for a in of_resource.resource.attributes}
                for scope in of_resource.scope_spans:
                    for span in scope.spans:
                        if span.trace_id.hex() == trace_id:
                            yield who["service.name"], who["service.instance.id"], span

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    running = Collector()
    try:
        yield running
    finally:
        running.close()
