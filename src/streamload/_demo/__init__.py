"""`streamload demo`: watch a model compute while its own weights arrive.

Floor 6; needs torch, and matplotlib for the picture. What it loads is in `_models`. The map:

    _scales     the models the demo can write for itself
    _measure    one load and first token, timed: the usual way or streamed
    _timeline   what happened when, by layer; shown by _text and _picture, and in a viewer of traces by `_trace`
    _show       the whole demo, from checkpoint to verdict
    _report     its figures in words and JSON
"""

from ._show import DemoSettings, run_demo

__all__ = ["DemoSettings", "run_demo"]
