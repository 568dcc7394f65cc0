"""
A private RabbitMQ from the server that the machine has installed: own ports, own folders, own cookie, own port mapper.

Nothing of it touches the machine's own RabbitMQ, and several may run at once. Every test gets a virtual host of its own
through the management plugin, whose answers also tell tests what is in a queue.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from amqp.exceptions import NotFound
from kombu.connection import Connection

from penstock_schemas.wire import QUEUE
from penstock_worker.errors import ConfigurationError
from penstock_worker.stack.ports import LOOPBACK, find_free_port
from tests.servers.process import Controls, LocalProcess
from tests.servers.tls import Authority

#: Debian's wrapper in the PATH insists on root or its own account; the script behind it does not.
_SCRIPTS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")

#: Far above what a test needs.
_MEMORY_BYTES = 2 * 1024**3

_CONFIGURATION = """\
listeners.tcp.1 = {host}:{port}
listeners.ssl.1 = {host}:{tls_port}
ssl_options.cacertfile = {authority.ca}
ssl_options.certfile = {authority.server}
ssl_options.keyfile = {authority.server}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
management.tcp.ip = {host}
management.tcp.port = {management_port}
vm_memory_high_watermark.absolute = {memory_bytes}
disk_free_limit.absolute = 50MB
log.console = true
log.file = false
"""


#: What Erlang and epmd write when another program has a port.
_PORT_IS_BUSY = ("eaddrinuse", "Address already in use")
_START_ATTEMPTS = 5


def find_program() -> str | None:
    """The server's start script, or None where RabbitMQ is not installed."""
    return next((path for script in _SCRIPTS if (path := shutil.which(script))), None)


class RabbitServer(Controls):
    """One server for a test session, with a port for TLS as well; a test may stop, kill or freeze it."""

    def __init__(self, folder: Path) -> None:
        super().__init__("RabbitMQ", log=folder / "rabbitmq.log", cwd=folder)
        self._folder = folder
        self.authority = Authority(folder / "tls")
        self._has_started = False
        self._cookie = uuid4().hex
        self._choose_ports()

    def _choose_ports(self) -> None:
        self.port = find_free_port()
        self.tls_port = find_free_port()
        self._management_port = find_free_port()
        self._mapper = _port_mapper(self._folder)
        self._env |= self._environment()

    def start(self, ready_within_s: float = 180) -> None:
        """A first start takes other ports when another program was faster; afterwards the address stays."""
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            try:
                super().start(ready_within_s)
            except ConfigurationError:
                said = self.recent_log() + self._mapper.recent_log()
                if self._has_started or not attempts_left or not any(words in said for words in _PORT_IS_BUSY):
                    raise
                self._mapper.clean_up()
                self._choose_ports()
            else:
                self._has_started = True
                return

    def command(self) -> Sequence[str]:
        program = find_program()
        assert program is not None
        return [program]

    def prepare(self) -> None:
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        configuration = _CONFIGURATION.format(
            host=LOOPBACK,
            port=self.port,
            tls_port=self.tls_port,
            authority=self.authority,
            management_port=self._management_port,
            memory_bytes=_MEMORY_BYTES,
        )
        (self._folder / "rabbitmq.conf").write_text(configuration)
        self._mapper.start()

    def is_ready(self) -> bool:
        try:
            return bool(self.call("GET", "/api/health/checks/port-listener/" + str(self.port))["status"] == "ok")
        except OSError:
            return False

    def send_signal(self, number: int) -> None:
        """To the server itself: the process that was started is the shell script around it."""
        servers = [process for process in self.processes() if process.name().startswith("beam")]
        for process in servers or self.processes()[:1]:
            process.send_signal(number)

    def clean_up(self) -> None:
        super().clean_up()
        self._mapper.clean_up()

    def create_vhost(self) -> str:
        """Make a virtual host and return its broker URL."""
        self.resume()
        self.start()
        name = f"test-{uuid4().hex}"
        self.call("PUT", f"/api/vhosts/{name}")
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/{name}"

    def drop_vhost(self, url: str) -> None:
        self.resume()
        self.start()
        self.call("DELETE", f"/api/vhosts/{url.rpartition('/')[2]}")

    def queue(self, url: str, name: str) -> dict[str, Any]:
        """What the management plugin says of a queue; its counts lag by up to five seconds."""
        return dict(self.call("GET", f"/api/queues/{url.rpartition('/')[2]}/{quote(name)}"))

    def close_connections(self) -> set[str]:
        """
        Close every client's connection from the server's side; returns their names.

        The management plugin knows of a connection a moment after it is open: who wants more than one closed asks again.
        """
        names = {connection["name"] for connection in self.call("GET", "/api/connections")}
        for name in names:
            try:
                self.call("DELETE", f"/api/connections/{quote(name)}")
            except urllib.error.HTTPError as exc:
                if exc.code != HTTPStatus.NOT_FOUND:  # its client closed it meanwhile
                    raise
        return names

    def waiting(self, url: str) -> int:
        """Messages in the queue of events that no worker has; 0 where there is no queue."""
        with Connection(url) as connection, connection.channel() as channel:
            try:
                return int(channel.queue_declare(QUEUE, passive=True).message_count)
            except NotFound:
                return 0

    def limit_memory(self, limit_bytes: int = _MEMORY_BYTES) -> None:
        """Give the broker another limit; one that it is above raises its alarm, which blocks whoever publishes."""
        self._control("eval", f"vm_memory_monitor:set_vm_memory_high_watermark({{absolute, {limit_bytes}}}).")

    def has_alarm(self) -> bool:
        """Whether the broker itself tells of an alarm (memory or disk)."""
        try:
            self.call("GET", "/api/health/checks/local-alarms")
        except urllib.error.HTTPError as exc:
            if exc.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return True
        return False

    def _control(self, *words: str) -> str:
        program = shutil.which("/usr/lib/rabbitmq/bin/rabbitmqctl") or shutil.which("rabbitmqctl")
        assert program is not None
        command = [program, "-n", self._env["RABBITMQ_NODENAME"], "--erlang-cookie", self._cookie, *words]
        return subprocess.run(command, env={**os.environ, **self._env}, capture_output=True, text=True, check=True).stdout

    def call(self, method: str, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://{LOOPBACK}:{self._management_port}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            "HOME": str(folder),
            "ERL_EPMD_PORT": self._mapper.celeryconfig["port"],  # type: ignore[dict-item]
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": f"penstock-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(find_free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} -setcookie {self._cookie}",
        }


def _port_mapper(folder: Path) -> LocalProcess:
    """Erlang's epmd as a child of ours: left to itself, the server starts one as a daemon that outlives it."""
    port = find_free_port()
    command = [shutil.which("epmd") or "epmd", "-port", str(port), "-address", LOOPBACK]
    config = {"port": str(port)}
    return LocalProcess("epmd", command, log=folder / "epmd.log", ready=lambda _: _accepts(port), config=config)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 1).close()
    except OSError:
        return False
    return True
