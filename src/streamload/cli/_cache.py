"""`streamload cache`: what a tier of `StreamOptions.cache_dir` keeps, and how to make it smaller.

Part of `cli`.
"""

from __future__ import annotations
