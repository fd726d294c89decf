"""A thousand loads, each with a few faults chosen at random: right bytes or a typed error, in time, every time.

Seeded by their numbers: `--fault-schedules 1` runs the first only, and a failure names its number.
"""

from __future__ import annotations

import queue
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamload._sources import open_source
from streamload.errors import SourceError

from ..servers.fault_proxy import BEFORE_HEAD, Fault, FaultProxy
from ..servers.loads import WAYS, load_range, short_options

AT_ONCE = 8
DATA = random.Random(6).randbytes(700_000)
DEADLINE = 40.0
PASSING = ("reset", "close", "stall", "status", "half", "trickle", "early reset", "early stall")
LASTING = ("whole", "shifted", "total", "etag", "403", "404", "412", "503")


def passing_fault(chance):
    kind = chance.choice(PASSING)
    at = chance.choice((0.0, chance.random(), chance.random()))
    if kind.startswith("early"):
        kind, at = kind.removeprefix("early "), BEFORE_HEAD
    status = chance.choice((408, 429, 500, 502, 503, 504))
    return Fault(kind, at=at, after=chance.choice((0, 0, 1, 3)), status=status, rate=2_000_000)


def lasting_fault(chance):
    kind = chance.choice(LASTING)
    after = chance.randrange(4)
    return (
        Fault("status", status=int(kind), times=0, after=after) if kind.isdigit() else Fault(kind, times=0, after=after)
    )


def run(number, url, proxy):
    """Run one schedule; return what is wrong with how it ended, or ""."""
    chance = random.Random(number)
    faults = [passing_fault(chance) for _ in range(chance.randrange(5))]
    lasts = chance.random() < 0.2
    if lasts:
        faults.append(lasting_fault(chance))
    # What passes is waited for; what lasts is given up soon.
    options = short_options(chunk_bytes=64 << 10, stall_seconds=0.5, retry_seconds=1.5 if lasts else 20.0)
    start = chance.randrange(len(DATA) - 1)
    end = min(len(DATA), start + 1 + chance.randrange(300_000))
    way, while_opening = WAYS[number % 2], chance.random() < 0.25
    proxy.set(*(faults if while_opening else ()))
    began = time.monotonic()
    try:
        with open_source(url, options=options) as source:
            if not while_opening:
                proxy.set(*faults)
            found, _ = load_range(source, start, end, options, way=way)
        wrong = "" if found == DATA[start:end] else "wrong bytes"
    except (SourceError, PermissionError, FileNotFoundError) as error:
        wrong = "" if lasts else f"gave up: {error!r}"
    seconds = time.monotonic() - began
    if seconds > DEADLINE:
        wrong = f"took {seconds:.1f} s"
    ranges = 2 + (end - start) // options.chunk_bytes + 1
    if not lasts and len(proxy.ranged) > 2 * (ranges + len(faults)):
        wrong = wrong or f"{len(proxy.ranged)} requests for {ranges} ranges"
    return f"schedule {number} ({way}, bytes {start} to {end}, {faults}): {wrong}" if wrong else ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_schedules_end_in_right_bytes_or_a_typed_error(origin, request):
    path, upstream = origin.put("schedules", DATA), origin.url.rpartition("/")[2]
    proxies: queue.SimpleQueue[FaultProxy] = queue.SimpleQueue()

    def one(number):
        proxy = proxies.get()
        try:
            return run(number, proxy.url + path, proxy)
        finally:
            proxies.put(proxy)

    made = [FaultProxy(upstream) for _ in range(AT_ONCE)]
    try:
        for proxy in made:
            proxies.put(proxy)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            wrong = [text for text in pool.map(one, range(request.config.getoption("--fault-schedules"))) if text]
    finally:
        for proxy in made:
            proxy.close()
    assert not wrong, "\n".join(wrong[:10])
