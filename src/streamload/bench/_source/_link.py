"""A link of so many bytes a second, shared by all connections, with latency: a proxy before a server.

Part of `bench._source`; a program of the standard library alone: `python _link.py PARENT UPSTREAM BYTES_PER_SECOND
LATENCY_SECONDS` prints its port and runs until PARENT is gone. Each connection, and each request on it, waits for the
latency, as a round trip would have it; what comes back is paced in the order it arrives. At 100 MB/s it takes about a
tenth of a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys

_BLOCK = 64 << 10
_BEHIND_SECONDS = 0.02  # what may be caught up after the timer, or this process, came late
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class _Pace:
    """Give every byte its time on the link."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._free_at = 0.0

    async def send(self, nbytes: int) -> None:
        """Return when the last of them has passed."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _BEHIND_SECONDS) + nbytes * self._seconds_per_byte
        if self._free_at > now + 1e-3:
            await asyncio.sleep(self._free_at - now)


async def _requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float) -> None:
    """Pass on what the client says, each piece after the latency."""
    await asyncio.sleep(latency)  # the handshake
    while data := await reader.read(_BLOCK):
        await asyncio.sleep(latency)
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: _Pace) -> None:
    while data := await reader.read(_BLOCK):
        await pace.send(len(data))
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _main(upstream: str, bytes_per_second: float, latency: float) -> None:
    pace = _Pace(bytes_per_second)
    host, _, port = upstream.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = []
        with contextlib.suppress(ConnectionError):
            behind = await asyncio.open_connection(host, int(port), limit=_BLOCK)
            writer.transport.set_write_buffer_limits(_BLOCK)
            ends = [
                asyncio.ensure_future(_requests(reader, behind[1], latency)),
                asyncio.ensure_future(_answers(behind[0], writer, pace)),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                behind[1].close()
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_BLOCK, backlog=1024)
    os.write(1, f"{server.sockets[0].getsockname()[1]}\n".encode())
    await server.serve_forever()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever started this is gone")
    asyncio.run(_main(sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
