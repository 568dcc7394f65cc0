"""A private PostgreSQL, and a database of its own for every test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import psycopg

from penstock_worker.stack.postgres import EmbeddedPostgres
from tests.servers.process import Controls


class PostgresServer(Controls, EmbeddedPostgres):
    """
    One server for a test session.

    A test may stop, kill or freeze it: who asks for the next database finds it running again.

    Args:
        is_synced:
            Whether a commit waits for the disk. Without, a kill of the server loses nothing either, for what it has written is
            the operating system's; every database that is made or dropped waits for the disk otherwise.
    """

    def __init__(self, folder: Path, *, is_synced: bool = True) -> None:
        super().__init__(folder)
        self._is_synced = is_synced

    def command(self) -> Sequence[str]:
        settings = {"dynamic_shared_memory_type": "mmap"}  # a killed server leaves nothing outside of its folder
        if not self._is_synced:
            settings |= {"fsync": "off", "max_wal_size": "256MB"}
        return [*super().command(), *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]

    def create_database(self, template: str = "template1") -> str:
        """Make a database as a copy of another and return its URL."""
        self._run_again()
        name = f"test_{uuid4().hex}"
        # Copying files takes half as long as logging them, where no copy waits for the disk.
        strategy = "wal_log" if self._is_synced else "file_copy"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY {strategy}')
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database of `create_database`, whoever is still connected."""
        self._run_again()
        self.run(f'DROP DATABASE "{database_of(url)}" WITH (FORCE)')

    def _run_again(self) -> None:
        self.resume()
        if not self.is_running:  # a start asks one that runs for its own database, with a connection more
            self.start()

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def database_of(url: str) -> str:
    return url.rpartition("/")[2]
