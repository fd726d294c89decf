"""A cold start as spans of OpenTelemetry.

Part of `_coldstart`; needs opentelemetry-api. Spans are recorded after the fact, with the times that were measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

    from ._report import ColdStartReport, LoadReport

__all__ = ["record"]


def record(report: ColdStartReport, tracer_provider: trace.TracerProvider | None) -> None:
    """Record one span for the start, and below it one for each phase and each load."""
    tracer = trace.get_tracer("streamload", tracer_provider=tracer_provider)

    def at(seconds: float) -> int:
        return round((report.started + seconds) * 1e9)

    def begin(
        name: str, start: float, attributes: Mapping[str, AttributeValue], below: trace.Span | None = None
    ) -> trace.Span:
        context = None if below is None else trace.set_span_in_context(below)
        return tracer.start_span(name, context, start_time=at(start), attributes=dict(attributes))

    root = begin("cold start", 0.0, {})
    for name, moment in report.reached.items():
        root.add_event(name, timestamp=at(moment))
    for phase in report.phases:
        detail = {"streamload.detail": phase.detail} if phase.detail else {}
        begin(phase.name, phase.start, detail, root).end(at(phase.end))
    for load in report.loads:
        made = begin(f"load {load.name}", load.submitted, _attributes(load), root)
        for layer, moment in load.layers.items():
            made.add_event("layer resident", {"streamload.layer": layer}, timestamp=at(moment))
        made.end(at(load.submitted + load.stats.seconds))
    root.end(at(report.seconds))


def _attributes(load: LoadReport) -> dict[str, AttributeValue]:
    stats = load.stats
    return {
        "streamload.bytes": stats.bytes_resident,
        "streamload.bytes_per_second": load.bytes_per_second,
        "streamload.stall_seconds": stats.stall_seconds,
        "streamload.requests": stats.requests,
        "streamload.retries": stats.retries,
        "streamload.cache_hit_bytes": load.cache_hit_bytes,
    }
