"""What a load did when, as spans in lanes, and the file that ui.perfetto.dev and chrome://tracing open of it.

Floor 2; stdlib only. `_spans` says what happened, `_perfetto` writes it, `_groups` puts
layers together for a picture.
"""

from ._groups import layer_groups
from ._perfetto import trace_events, write_trace
from ._spans import Lane, Span, Trace, in_link_order, in_tracks

__all__ = ["Lane", "Span", "Trace", "in_link_order", "in_tracks", "layer_groups", "trace_events", "write_trace"]
