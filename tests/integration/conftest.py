"""What tests of erasure, of the fence and of exports work with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.erasing import Registrar
from tests.servers.databases import PostgresServer


@pytest.fixture(scope="module")
def one_registrar(postgres_server: PostgresServer, template_database: str) -> Iterator[Registrar]:
    url = postgres_server.create_database(template_database)
    registrar = Registrar(url)
    yield registrar
    registrar.close()
    postgres_server.drop_database(url)


@pytest.fixture
def registrar(one_registrar: Registrar) -> Registrar:
    """Of a database in which nothing has happened; all tests have the same one after another."""
    one_registrar.clear()
    return one_registrar
