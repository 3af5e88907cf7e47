"""Spans, by OpenTelemetry, where an operator asks for them. The only room that may import it; off, it costs nothing."""

from openkcm.telemetry.spans import Span, span, start, stop

__all__ = ["Span", "span", "start", "stop"]
