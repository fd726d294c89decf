"""What a load did when, as spans in lanes, and the file that ui.perfetto.dev and chrome://tracing open of it.

Floor 2; stdlib only. The map:

    _spans      what happened
    _merge      a long trace made short
    _groups     layers put together for a picture
    _perfetto   the file of it
"""

from ._groups import layer_groups
from ._perfetto import trace_events, write_trace
from ._spans import MOST_SPANS, Lane, Span, Trace, in_link_order, in_tracks

__all__ = [
    "MOST_SPANS",
    "Lane",
    "Span",
    "Trace",
    "in_link_order",
    "in_tracks",
    "layer_groups",
    "trace_events",
    "write_trace",
]
