"""`streamload bench agree`: whether two results of one kind say the same.

Part of `bench`. The map:

    _kinds      what each kind's JSON holds: its figures with their samples, and what was asked for
    _agreement  two results held against each other
    _table      the same as text
"""
