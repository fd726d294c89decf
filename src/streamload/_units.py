"""Numbers with their units, in words a person reads.

Floor 1; pure.
"""

from __future__ import annotations

__all__ = ["say_bytes", "say_count", "say_rate", "say_seconds"]


def say_bytes(nbytes: float) -> str:
    """Return a size with its unit, in powers of 1000, to three digits: "1.09 GB"."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while nbytes >= 999.5 and unit != "TB":
        nbytes, unit = nbytes / 1000, next(units)
    if unit == "B" or nbytes >= 99.95:
        return f"{nbytes:.0f} {unit}"
    return f"{nbytes:.2f} {unit}" if nbytes < 9.995 else f"{nbytes:.1f} {unit}"


def say_count(count: int, noun: str = "") -> str:
    """Return a number with its thousands set apart, and of what: "7,500", "1 shard", "4 shards"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}" if noun else f"{count:,}"


def say_rate(bytes_per_second: float) -> str:
    """Return a rate with its unit: "1.09 GB/s"."""
    return f"{say_bytes(bytes_per_second)}/s"


def say_seconds(seconds: float) -> str:
    """Return a time with its unit, to a precision that suits it: "2.31 s", "52.1 ms"."""
    if seconds >= 100:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms"
