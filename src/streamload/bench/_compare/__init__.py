"""`streamload bench compare`: every installed loader over one model, warm and cold, in one table.

Part of `bench`. The map:

    _run        what is measured, in which order
    _result     what comes out
    _table      the same as text
"""
