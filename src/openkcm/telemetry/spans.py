"""Spans around what belongs to a trace. Waits for no collector, and puts nothing of keys, tokens, people or tenants in.

On when the process is started with OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) and `openkcm[otel]` is there;
all other settings are OpenTelemetry's own. Spans go into a bounded queue, which a thread of its own empties; what does
not fit is dropped. Off, the traces themselves go on: messages and logs have them all the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal

from openkcm.contract import trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

__all__ = ["Span", "span", "start", "stop"]

log = logging.getLogger(__name__)
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LAST_WORDS_S: Final = 2.0  # for what is queued when the process ends
Value = str | int
_recording: tuple[TracerProvider, Tracer] | None = None


class Span:
    """A span under way; does nothing where none is recorded."""

    def __init__(self, recorded: OtelSpan | None) -> None:
        self._recorded = recorded

    def say(self, attributes: Mapping[str, Value], *, name: str | None = None) -> None:
        """Add attributes, and give it another name."""
        if self._recorded is not None:
            with _harmless():
                self._recorded.set_attributes(attributes)
                if name is not None:
                    self._recorded.update_name(name)


def start(service: str, attributes: Mapping[str, str]) -> None:
    """Have this process record spans, if it was asked to. Whatever is wrong with that is logged and stops nothing."""
    global _recording  # noqa: PLW0603 -- one process, one recorder
    if not any(map(os.environ.get, ENDPOINTS)):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(
            resource=Resource.create({"service.name": service, **attributes}), shutdown_on_exit=False
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception:
        log.exception("no spans are recorded: is openkcm[otel] installed, and are its settings right?")
        return
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # a full queue warns at every span
    _recording = provider, provider.get_tracer("openkcm")


def stop() -> None:
    """Send what is queued, for a short while, and record nothing more."""
    global _recording  # noqa: PLW0603
    if _recording is None:
        return
    provider, _ = _recording
    _recording = None
    ending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
    ending.start()
    ending.join(LAST_WORDS_S)


@contextlib.contextmanager
def span(
    name: str, kind: Literal["SERVER", "CONSUMER"], parent: trace.Trace | None, attributes: Mapping[str, Value], *,
    start_ns: int | None = None,
) -> Iterator[Span]:  # fmt: skip
    """Run the block as one span under `parent`, or at the head of a new trace: what it publishes and logs is of it.

    Args:
        name: One of few: no id in it.
        start_ns: When it began, ns since 1970; None: now.
    """
    recorded, here = None, parent or trace.fresh()
    if _recording is not None:
        with _harmless():
            recorded, here = _begun(_recording[1], name, kind, parent, attributes, start_ns)
    try:
        with trace.under(here):
            yield Span(recorded)
    finally:
        if recorded is not None:
            with _harmless():
                recorded.end()


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Log what OpenTelemetry raises: an order and an acknowledgement go on without their span."""
    try:
        yield
    except Exception:
        log.exception("a span is lost")


def _begun(
    tracer: Tracer, name: str, kind: str, parent: trace.Trace | None, attributes: Mapping[str, Value],
    start_ns: int | None,
) -> tuple[OtelSpan, trace.Trace]:  # fmt: skip
    from opentelemetry import trace as otel

    context = None
    if parent is not None:
        flags = otel.TraceFlags(parent.sampled)
        ids = int(parent.trace_id, 16), int(parent.span_id, 16)
        context = otel.set_span_in_context(
            otel.NonRecordingSpan(otel.SpanContext(*ids, is_remote=True, trace_flags=flags))
        )
    recorded = tracer.start_span(
        name, context=context, kind=otel.SpanKind[kind], attributes=attributes, start_time=start_ns
    )
    own = recorded.get_span_context()
    return recorded, trace.Trace(f"{own.trace_id:032x}", f"{own.span_id:016x}", sampled=own.trace_flags.sampled)
