"""`streamload bench storage`: what a drive gives, cold and warm, or a bucket, by its connections.

Part of `bench`. The map:

    _run        what is measured, in which order
    _drive      the ways to read files
    _bucket     the ways to read an object of a store
    _judge      whether the bytes that came are right
    _result     what comes out, and the same as text
"""
