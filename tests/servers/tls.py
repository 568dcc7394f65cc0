"""
TLS for tests: a throw-away authority, and a front that speaks TLS for servers whose wheels were built without.

Every certificate is for `localhost`, so that 127.0.0.1, where everything listens, is a wrong name. Clients need a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from penstock_worker.stack.ports import LOOPBACK

__all__ = ["Authority", "TlsFront"]

NAME = "localhost"
_CHUNK_BYTES = 64 * 1024
#: What libpq says before anything else: 8 bytes, this number the last four of them. https://www.postgresql.org/docs/18/protocol-message-formats.html
_SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


class Authority:
    """
    The files that an authority has made.

    `ca`, `server`, `client`, each certificate file with its key in it; `client_key` alone, `expired` for a server.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.ca, self.client_key = folder / "ca.pem", folder / "client.key"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.server = self._issue(folder / "server.pem", NAME)
        client = self._authority.issue_cert("client.localhost", common_name="penstock")  # Erlang reads no list of no names
        self.client = folder / "client.pem"
        client.private_key_pem.write_to_path(str(self.client_key))
        self.client_key.chmod(0o600)  # libpq insists
        client.cert_chain_pems[0].write_to_path(str(self.client))
        long_ago = datetime.now(UTC) - timedelta(days=30)
        self.expired = self._issue(folder / "expired.pem", NAME, long_ago, long_ago + timedelta(days=1))

    def _issue(self, path: Path, name: str, not_before: datetime | None = None, not_after: datetime | None = None) -> Path:
        path.touch(mode=0o600)
        certificate = self._authority.issue_cert(name, not_before=not_before, not_after=not_after)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def settings(self, kind: str) -> dict[str, str]:
        """The worker's settings with which `kind` ("broker", "database") is connected to rightly, but for the URL."""
        files = {"ca": self.ca, "certificate": self.client, "key": self.client_key}
        return {f"{kind}_tls_{name}": str(path) for name, path in files.items()}


class TlsFront:
    """
    Takes TLS off and hands the rest to a server's port; one thread runs all connections.

    Args:
        target_port: The server's.
        authority: Has made the certificate that is shown, and must have made the client's.
        is_postgres: Whether clients ask first whether TLS is spoken.
        is_expired: Show the certificate that has expired.
    """

    def __init__(self, target_port: int, authority: Authority, *, is_postgres: bool = False, is_expired: bool = False) -> None:
        self.authority = authority
        self._target_port, self._is_postgres = target_port, is_postgres
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
        self._context.load_cert_chain(authority.expired if is_expired else authority.server)
        self._context.verify_mode = ssl.CERT_REQUIRED
        #: Connections whose handshake was done.
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # clients that refuse us are what it is for
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        # PostgreSQL's clients begin without TLS; others, whose first words would be read too early here, at once.
        context = None if self._is_postgres else self._context
        return await asyncio.start_server(self._serve, LOOPBACK, 0, ssl=context)

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                if self._is_postgres:
                    await self._begin(reader, writer)
                self.connections += 1
                await self._forward(reader, writer)
            finally:
                writer.transport.abort()

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
            raise ConnectionAbortedError("without TLS")
        writer.write(b"S")
        await writer.start_tls(self._context)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(LOOPBACK, self._target_port)
        pumps = [asyncio.ensure_future(_pump(reader, to_server[1])), asyncio.ensure_future(_pump(to_server[0], writer))]
        try:
            # Either side's end is the end: no protocol here uses half-closed connections.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_server[1].transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
