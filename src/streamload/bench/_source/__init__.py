"""Bytes from object storage, beside the fastest anyone could bring them: `streamload bench source`.

Part of `bench`. The map:

    _nginx  the server that is downloaded from where no URL is given
    _link   a slow link before it
"""
