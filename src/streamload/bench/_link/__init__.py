"""`streamload bench link`: how fast copies reach a device, by size, and what pinning costs.

Part of `bench`. The map:

    _run        what is measured, in which order
    _ways       the ways to copy and to pin
    _result     what comes out, and the same as text
"""
