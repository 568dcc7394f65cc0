"""A private PostgreSQL, and a database of its own for every test."""

from __future__ import annotations

from uuid import uuid4

import psycopg

from penstock_worker.stack.postgres import EmbeddedPostgres
from tests.servers.process import Controls


class PostgresServer(Controls, EmbeddedPostgres):
    """
    One server for a test session.

    A test may stop, kill or freeze it: who asks for the next database finds it running again.
    """

    def create_database(self, template: str = "template1") -> str:
        """Make a database as a copy of another and return its URL."""
        self.resume()
        self.start()
        name = f"test_{uuid4().hex}"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database of `create_database`, whoever is still connected."""
        self.resume()
        self.start()
        self.run(f'DROP DATABASE "{database_of(url)}" WITH (FORCE)')

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def database_of(url: str) -> str:
    return url.rpartition("/")[2]
