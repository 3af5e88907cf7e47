"""Which trace a request is in, seen from the application that it reaches; and spans that cannot be recorded."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from opentelemetry.trace import SpanContext

from openkcm import telemetry
from openkcm.contract import trace
from openkcm.contract.trace import Trace
from openkcm.governance.portal.traced import traced
from openkcm.telemetry import spans

CALLER = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
GOOD = (b"traceparent", str(CALLER).encode())


async def seen(method: str, *headers: tuple[bytes, bytes]) -> Trace | None:
    found: list[Trace | None] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        found.append(trace.current())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(_: Any) -> None:
        pass

    await traced(app)({"type": "http", "method": method, "headers": list(headers)}, None, send)  # type: ignore[arg-type, typeddict-item]
    assert trace.current() is None
    return found[0]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_is_in_its_callers_trace_or_in_a_new_one(method: str) -> None:
    assert await seen(method, GOOD) == CALLER
    others = [
        await seen(method),
        await seen(method),
        await seen(method, (b"traceparent", b"00-nonsense")),
        await seen(method, (b"traceparent", b"\xff\xfe")),
        await seen(method, GOOD, GOOD),
    ]
    assert len({one.trace_id for one in others if one is not None} | {CALLER.trace_id}) == 6


async def test_where_opentelemetry_is_not_installed_a_wish_for_it_is_logged_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.ERROR):
        telemetry.start("openkcm-cmk", {})
    assert "openkcm[otel]" in caplog.text
    assert await seen("POST", GOOD) == CALLER
    telemetry.stop()


class Broken:
    """A tracer, and its own span, of which one call raises."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __getattr__(self, name: str) -> Any:
        def answer(*_: Any, **__: Any) -> Any:
            if name == self.call:
                raise RuntimeError(name)
            return SpanContext(1, 1, is_remote=False) if name == "get_span_context" else self

        return answer


@pytest.mark.parametrize("call", ["start_span", "set_attributes", "end"])
async def test_whatever_a_recorder_raises_the_request_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    monkeypatch.setattr(spans, "_recording", (None, Broken(call)))
    assert await seen("POST", GOOD) is not None
    assert "a span is lost" in caplog.text
