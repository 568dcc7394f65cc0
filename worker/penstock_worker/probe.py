"""
The probe port of a process: `/live`, `/ready` and `/metrics` over HTTP, from threads of their own.

The threads only read what others have decided, so an answer is cheap and comes also while the process's own loop hangs. That
the process cannot answer at all is a failed probe as well.

Anybody who reaches the port may ask; nothing that it tells is about an event's content.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, ClassVar
from weakref import WeakSet

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from penstock_worker.errors import ConfigurationError

__all__ = ["Check", "ProbePort"]

logger = logging.getLogger(__name__)

#: Seconds in which a client must have said what it wants, and taken the answer.
_CLIENT_S = 5.0
#: Connections, and so threads, at a time. One more ends the oldest: a prober that comes now is never kept out by those that say
#: nothing.
_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Check:
    """The answer to a probe: what is wrong, in words for people. Nothing is, where there is no reason."""

    reasons: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons


class ProbePort:
    """
    Serves the probes of this process until it ends, or `stop`.

    A child that is forked later gives the port up at once: it would keep it after the end of its parent.

    Args:
        address: Where to listen, a name or an IP address.
        port: 0 takes a free one; see `port`.
        live: Whether the process does its work, or would if what it needs were there. Who is not live is restarted.
        ready: Whether it can work now. Both are called from any thread, must not wait, and must not raise.
        metrics: What `/metrics` shows.
        setting: Where the port's number comes from, for the line that says it is taken.
    """

    def __init__(
        self,
        address: str,
        port: int,
        live: Callable[[], Check],
        ready: Callable[[], Check],
        metrics: CollectorRegistry,
        *,
        setting: str = "PENSTOCK_PROBE_PORT",
    ) -> None:
        self._address, self._port, self._setting = address, port, setting
        self._answers = {
            "/live": lambda _accept: _check_answer("live", live()),
            "/ready": lambda _accept: _check_answer("ready", ready()),
            "/metrics": lambda accept: _metrics_answer(metrics, accept),
        }
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The number that it listens on, once started."""
        assert self._server is not None, "the port has been started"
        return int(self._server.server_address[1])

    def start(self) -> None:
        """
        Listen, and answer from now on.

        Raises:
            ConfigurationError: The port is taken, or the address is none of this host.
        """
        try:
            self._server = _Server(self._address, self._port, self._answers)
        except OSError as exc:
            raise ConfigurationError(self._explain(exc)) from exc
        threading.Thread(target=self._server.serve_forever, name="penstock-probe", daemon=True).start()

    def stop(self) -> None:
        """Listen no longer."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _explain(self, exc: OSError) -> str:
        place = f"{self._address}:{self._port}"
        if exc.errno == errno.EADDRINUSE:
            return f"{self._setting}: {place} is taken by another process; every process on a host needs a port of its own"
        if exc.errno == errno.EACCES:
            return f"{self._setting}: {place} is not allowed to this user; take a port above 1023"
        return f"PENSTOCK_PROBE_ADDRESS, {self._setting}: cannot listen on {place}: {exc.strerror or exc}"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes


_Answers = dict[str, Callable[[str], _Answer]]


def _check_answer(name: str, check: Check) -> _Answer:
    status = HTTPStatus.OK if check.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    return _Answer(status, "application/json", json.dumps({name: check.is_ok, "reasons": check.reasons}).encode() + b"\n")


def _metrics_answer(metrics: CollectorRegistry, accept: str) -> _Answer:
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    return _Answer(HTTPStatus.OK, content_type, encode(metrics))


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    # Who finds it full comes again after a second, which a prober may not have.
    request_queue_size = 128
    daemon_threads = True
    # The end does not wait for clients.
    block_on_close = False
    #: Those of this process, to be closed in children.
    all: ClassVar[WeakSet[_Server]] = WeakSet()

    def __init__(self, address: str, port: int, answers: _Answers) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.answers = answers
        #: Oldest first.
        self.connections: dict[socket.socket, None] = {}
        super().__init__((address, port), _Handler)
        self.all.add(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Only the thread that accepts adds connections, so there are never more than it allows."""
        while len(self.connections) >= _CONNECTIONS:
            oldest = next(iter(self.connections))
            self.connections.pop(oldest, None)
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        self.connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or says nothing is none of ours; it must not fill the log."""
        del request
        exc = sys.exception()
        if not isinstance(exc, OSError):
            logger.error("a probe from %s could not be answered", client_address[0], exc_info=exc)

    def close_in_child(self) -> None:
        """Without a word to the clients, who belong to the parent."""
        for each in (self.socket, *self.connections):
            each.close()


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_S
    server: _Server

    def do_GET(self) -> None:
        answer = self._find_answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def version_string(self) -> str:
        """Who answers; not with which version of Python."""
        return "penstock"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line per probe would bury the log."""

    def _find_answer(self) -> _Answer:
        find = self.server.answers.get(self.path.partition("?")[0])
        if find is None:
            return _Answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are /live, /ready and /metrics\n")
        try:
            return find(self.headers.get("Accept", ""))
        except Exception:
            logger.exception("%s could not be answered", self.path)
            return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"an error, see the log of this process\n")


def _close_in_child() -> None:
    for server in list(_Server.all):
        server.close_in_child()


os.register_at_fork(after_in_child=_close_in_child)
