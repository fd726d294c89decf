"""`streamload bench source`: weights from an object store, beside a raw socket and other people's clients.

Part of `bench`. The map:

    _run        what is measured, in which order
    _place      a server started here; _nginx configures it
    _link       a slow link before a server
    _process    one client moves all the bytes once, in a process of its own
    _clients    the clients, one in a file
    _result     what comes out; `_table` makes text of it
"""
