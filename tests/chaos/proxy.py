"""A TCP proxy that a test can cut, slow down, hold and close; one thread runs all connections of one proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from typing import Any

from penstock_worker.stack.ports import LOOPBACK

__all__ = ["Proxy"]

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """
    Forwards connections from a port of its own to another one.

    Both ports stay the same for the proxy's life, so that clients find a server again that was restarted.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        #: Seconds by which every piece of data comes late; 0 for not at all.
        self.delay_s = 0.0
        #: Refuse new connections.
        self.is_closed = False
        #: Pieces of data that were late, and that were held.
        self.delayed = self.held = 0
        #: By the client's side, the server's.
        self._open: dict[asyncio.Transport, asyncio.Transport] = {}
        self._loop = asyncio.new_event_loop()
        self._flow = asyncio.Event()
        self._flow.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, sock=self._listener))

    @property
    def connections(self) -> int:
        """Clients that are connected through."""
        return len(self._open)

    def cut(self) -> int:
        """Reset every connection, on both sides and without a goodbye; returns how many there were."""
        return int(self._run(self._cut()))

    def hold(self) -> None:
        """Let nothing through, in either direction, and keep all connections."""
        self._loop.call_soon_threadsafe(self._flow.clear)

    def release(self) -> None:
        """End `hold`."""
        self._loop.call_soon_threadsafe(self._flow.set)

    def close(self) -> None:
        """End all connections and the thread."""
        self.is_closed = True
        self.release()
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(30)

    async def _cut(self) -> int:
        pairs = list(self._open.items())
        for client, server in pairs:
            # Both here, now: what is held waits with its own side's end for the release.
            client.abort()
            server.abort()
        return len(pairs)

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: Any = writer.transport
        if self.is_closed:
            client.abort()
            return
        try:
            to_server = await asyncio.open_connection(LOOPBACK, self.target_port)
        except OSError:
            client.abort()
            return
        self._open[client] = to_server[1].transport
        pumps = [
            asyncio.ensure_future(self._pump(reader, to_server[1])),
            asyncio.ensure_future(self._pump(to_server[0], writer)),
        ]
        try:
            # Either side's end is the end: no protocol here uses half-closed connections.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.pop(client, None)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            client.abort()
            to_server[1].transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if not self._flow.is_set():
                    self.held += 1
                    await self._flow.wait()
                if self.delay_s:
                    self.delayed += 1
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
