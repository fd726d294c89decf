"""`streamload bench from_pretrained`: transformers' own load, stock and streamed.

Part of `bench`; needs torch and transformers. The map:

    _run      the whole benchmark: loads by turns, each in a process of its own
    _process  what such a process does: one load, timed
    _result   what comes out: figures, ratios, a JSON file
    _table    the same as text
"""
