"""
A package of a user's own, from its first type to a new column and back, while old and new workers and producers run.

Penstock and the package come from wheels in environments of their own; only third-party libraries are those of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers.process import LocalProcess

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "shop"
version = "{version}"

[project.entry-points."penstock.records"]
shop = "shop.records"

[project.entry-points."penstock.migrations"]
shop = "shop.migrations"
"""

RECORDS = """
from decimal import Decimal

from penstock_schemas import Declaration, Record


class Order(Record):
    __record__ = Declaration(type="shop.order", table="shop.orders", key="order_id")

    order_id: str
    total: Decimal | None = None
"""

#: Publishes until a file says stop, then tells how many.
PUBLISH = """
import itertools, sys, time
from pathlib import Path
from penstock_producers import Producer
from shop.records import Order

broker_url, name, stop = sys.argv[1:]
note = {"note": "new"} if "note" in Order.model_fields else {}
with Producer(broker_url, name=name) as producer:
    for number in itertools.count(1):
        producer.publish(Order(order_id=f"{name}-{number}", total=number, **note))
        time.sleep(0.01)
        if Path(stop).exists():
            break
    assert producer.flush(120), producer.status()
print(number)
"""


class Source:
    """The package's own folder, as its developer has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.migrations = folder / "shop" / "migrations"
        self.migrations.mkdir(parents=True)
        (self.migrations / "__init__.py").touch()
        (folder / "shop" / "__init__.py").touch()
        self.release("1", RECORDS)

    def release(self, version: str, records: str) -> None:
        (self.folder / "pyproject.toml").write_text(PYPROJECT.format(version=version))
        (self.folder / "shop" / "records.py").write_text(records)

    @property
    def versions(self) -> list[Path]:
        return [path for path in self.migrations.glob("*.py") if path.name != "__init__.py"]


class Environment:
    """A virtual environment with Penstock's wheel and one of the package's, and what is run in it."""

    def __init__(self, folder: Path, urls: dict[str, str]) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "PYTHON"))}
        self.variables |= urls
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        site = run([str(self.bin / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
        # Only the path: what .pth files there would add, Penstock's sources among it, is not followed.
        (Path(site) / "third_party.pth").write_text(sysconfig.get_path("purelib"))

    def install(self, wheel: Path) -> None:
        words = ["-m", "uv", "pip", "install", "--quiet", "--no-cache", "--no-config", "--offline", "--no-deps", "--no-index"]
        run([sys.executable, *words, "--python", str(self.bin / "python"), "--reinstall", str(wheel)])

    def penstock(self, *words: str, migrations: Path | None = None) -> str:
        chosen = {"PENSTOCK_MIGRATIONS": f"shop={migrations}"} if migrations else {}
        return run([str(self.bin / "penstock"), *words], env=self.variables | chosen, cwd=self.folder)

    def start(self, name: str, *words: str) -> LocalProcess:
        log = self.folder / f"{name}.log"
        process = LocalProcess(name, [str(self.bin / words[0]), *words[1:]], log=log, env=self.variables, cwd=self.folder)
        process.start()
        return process


def run(words: list[str], **options: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def build(source: Path, into: Path) -> Path:
    """By the backend itself; a front end's start takes longer than its work."""
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(into)], cwd=source)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def penstock_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("penstock"))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
def new_environment(tmp_path: Path, penstock_wheel: Path, source: Source, empty_database_url: str, valkey_url: str) -> Any:
    """Makes an environment with the package as it is now."""
    urls = {"PENSTOCK_DATABASE_URL": empty_database_url, "PENSTOCK_BROKER_URL": valkey_url}

    def make(name: str) -> Environment:
        environment = Environment(tmp_path / name, urls)
        environment.install(penstock_wheel)
        environment.install(build(source.folder, tmp_path / f"{name}-wheel"))
        return environment

    return make


@pytest.fixture
def processes() -> Iterator[list[LocalProcess]]:
    """Ended with the test."""
    started: list[LocalProcess] = []
    yield started
    for process in started:
        process.clean_up()


@pytest.fixture
def database(empty_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def test_a_package_adds_a_column_while_everything_runs(
    new_environment: Any,
    source: Source,
    processes: list[LocalProcess],
    database: psycopg.Connection[Any],
    valkey_url: str,
    tmp_path: Path,
):
    old = new_environment("old")
    assert "/old/" in run([str(old.bin / "python"), "-c", "import penstock_worker; print(penstock_worker.__file__)"])

    # The first type: its migration is written into the source, and comes with the next wheel.
    old.penstock("migrate", "up")
    assert "wrote" in old.penstock("migrate", "create", "-m", "orders", migrations=source.migrations)
    old.install(build(source.folder, tmp_path / "old-wheel-2"))
    assert "applied shop:" in old.penstock("migrate", "up")
    assert "nothing has changed" in old.penstock("migrate", "create", "-m", "again", migrations=source.migrations)
    assert len(source.versions) == 1

    # The next release has a column more.
    source.release("2", RECORDS + "    note: str | None = None\n")
    new = new_environment("new")
    stop = tmp_path / "stop"

    def start(environment: Environment, name: str, *words: str) -> LocalProcess:
        processes.append(environment.start(name, *words))
        return processes[-1]

    def publisher(environment: Environment, name: str) -> LocalProcess:
        return start(environment, name, "python", "-c", PUBLISH, valkey_url, name, str(stop))

    old_worker = start(old, "old-worker", "penstock", "worker")
    publishers = [publisher(old, "old"), publisher(new, "new")]
    wait_for_more(database, "old", "new")
    assert "wrote" in new.penstock("migrate", "create", "-m", "note", migrations=source.migrations)
    new.install(build(source.folder, tmp_path / "new-wheel-2"))

    # The column comes under the old worker, with the values that came before it; it goes on with both producers.
    before = count(database, "order_id LIKE 'new-%'")
    assert "applied shop:" in new.penstock("migrate", "up")
    assert before > 0
    assert count(database, "note = 'new'") >= before
    assert "nothing has changed" in new.penstock("migrate", "create", "-m", "again", migrations=source.migrations)
    wait_for_more(database, "old", "new")

    # Old and new workers side by side, then the new one alone. What the old one has put aside meanwhile is moved at the end.
    new_worker = start(new, "new-worker", "penstock", "worker")
    wait_for_more(database, "old", "new")
    old_worker.stop()
    wait_for_more(database, "old", "new")
    new.penstock("migrate", "up")
    assert count(database, "_extra IS NOT NULL") == 0

    # And back: the old worker again, and the column goes.
    new_worker.stop()
    start(old, "old-worker-again", "penstock", "worker")
    wait_for_more(database, "old", "new")
    assert "shop: at" in new.penstock("migrate", "down")
    wait_for_more(database, "old", "new")
    assert "note" not in columns(database)
    assert "to apply" in new.penstock("migrate", "status")

    stop.touch()
    published = sum(wait_for_end(process) for process in publishers)
    wait_until(database, "SELECT count(*) = %s FROM shop.orders WHERE _version IS NOT NULL", published)
    assert database.execute("SELECT state, type, reason, detail FROM penstock.dead_letters").fetchall() == []


def wait_for_end(process: LocalProcess) -> int:
    """What the publisher has printed last: how many it has published."""
    assert process._process is not None
    assert process._process.wait(120) == 0, process.logs()
    return int(process.logs().split()[-1])


def wait_for_more(database: psycopg.Connection[Any], *producers: str) -> None:
    """Until events that each producer publishes from now on are stored."""
    for producer in producers:
        stored = count(database, f"order_id LIKE '{producer}-%'")
        wait_until(database, f"SELECT count(*) > %s FROM shop.orders WHERE order_id LIKE '{producer}-%%'", stored + 50)


def wait_until(database: psycopg.Connection[Any], query: str, *parameters: object) -> None:
    deadline = "SELECT clock_timestamp() + interval '120 seconds'"
    (end,) = database.execute(deadline).fetchone() or (None,)
    while database.execute(query, parameters).fetchone() != (True,):
        letters = database.execute("SELECT state, reason, detail FROM penstock.dead_letters LIMIT 3").fetchall()
        assert database.execute("SELECT clock_timestamp() < %s", [end]).fetchone() == (True,), (query, parameters, letters)
        database.execute("SELECT pg_sleep(0.05)")


def count(database: psycopg.Connection[Any], condition: str) -> int:
    (number,) = database.execute(f"SELECT count(*) FROM shop.orders WHERE {condition}").fetchone() or (0,)
    return int(number)


def columns(database: psycopg.Connection[Any]) -> list[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = 'shop.orders'::regclass AND attnum > 0 AND NOT attisdropped"
    return [name for (name,) in database.execute(query)]
