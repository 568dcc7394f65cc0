"""The chain of migrations, and those of packages with record types of their own, in a real PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
from pydantic import AwareDatetime

from penstock_migrations.run import check_migrated, create, downgrade, states, steps, upgrade
from penstock_schemas import Declaration, First, Index, Lifecycle, Max, Parent, Record
from penstock_schemas.registry import load_registry
from penstock_worker import store
from penstock_worker.cli.migrate import up
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.partitions import ensure_partitions
from penstock_worker.store.promotion import promote_all
from tests.packages import Shop, registry_of

OURS = "penstock_schemas"
#: Our revisions, in their order.
OUR_CHAIN = [f"{OURS}:000{number}" for number in range(1, 6)]
FUNCTIONS = (Path(store.__file__).parent / "functions.sql").read_text()

_OBJECTS = """
    SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|public$)'
    UNION ALL SELECT 'relation ' || relnamespace::regnamespace || '.' || relname FROM pg_class
    WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace::regnamespace::text = 'penstock'
    ORDER BY 1
"""
_SOURCES = "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'penstock'::regnamespace ORDER BY 1"


def rows(url: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        return connection.execute(query, parameters).fetchall()


def run(url: str, statement: str, *parameters: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement, parameters)


def declaration(**changes: Any) -> Declaration:
    words: dict[str, Any] = {"type": "shop.order", "table": "shop.orders", "key": "order_id", **changes}
    return Declaration(**words)


class Customer(Record):
    __record__ = Declaration(type="shop.customer", table="shop.customers", key="customer_id")
    customer_id: str
    name: str | None = None


class Order(Record):
    __record__ = declaration(indexes=[Index("placed_at"), Index("lines", method="gin"), Index("total", where="total > 0")])
    order_id: str
    placed_at: AwareDatetime | None = None
    total: Decimal | None = None
    lines: list[Any] | None = None


class OrderWithNote(Record):
    __record__ = Order.__record__
    order_id: str
    placed_at: AwareDatetime | None = None
    total: Decimal | None = None
    lines: list[Any] | None = None
    note: str | None = None


class Click(Record):
    __record__ = Declaration(
        type="shop.click",
        table="shop.clicks",
        key=("id", "at"),
        append_only="at",
        retention=timedelta(days=60),
        indexes=[Index("page")],
    )
    id: UUID | None = None
    at: AwareDatetime
    page: str | None = None


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_the_chain_makes_what_the_declarations_say(database_url: str):
    """Nothing would be written if somebody asked for Penstock's next migration."""
    created = create(database_url, load_registry(()), OURS, "nothing")

    assert (created.path, created.kept) == (None, ())
    # A year back, and its begun month; this month, and two ahead.
    assert rows(database_url, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'guardian.metrics'::regclass") == [(15,)]


def test_the_chain_holds_the_functions_as_they_are(database_url: str):
    migrated = rows(database_url, _SOURCES)
    run(database_url, FUNCTIONS)

    assert [name for name, _ in migrated] == ["begin_batch", "merge_extra", "merge_stamps", "stamp"]
    assert rows(database_url, _SOURCES) == migrated


def test_down_leaves_nothing_and_up_makes_all_again(empty_database_url: str):
    registry = load_registry(())
    before = rows(empty_database_url, _OBJECTS)

    assert upgrade(empty_database_url, registry) == OUR_CHAIN
    made = rows(empty_database_url, _OBJECTS)
    assert downgrade(empty_database_url, registry, OURS, "base").current is None
    assert rows(empty_database_url, _OBJECTS) == before == []
    assert steps(empty_database_url, registry, OURS, len(OUR_CHAIN)).is_current
    assert rows(empty_database_url, _OBJECTS) == made
    assert steps(empty_database_url, registry, OURS, -1).pending == ("0005",)
    assert upgrade(empty_database_url, registry) == OUR_CHAIN[-1:]
    assert upgrade(empty_database_url, registry) == []


def test_two_ups_at_once_apply_each_migration_once(empty_database_url: str):
    applied: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: applied.append(upgrade(empty_database_url, load_registry(())))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(applied) == [[], [], OUR_CHAIN]


def test_a_migration_that_workers_block_gives_way_and_comes_back(database_url: str, shop: Shop):
    upgraded = threading.Event()
    create(database_url, shop.declares(Order), "shop", "orders", shop.locations)
    upgrade(database_url, shop.declares(Order), shop.locations)
    create(database_url, shop.declares(OrderWithNote), "shop", "note", shop.locations)

    def up() -> None:
        upgrade(database_url, shop.declares(OrderWithNote), shop.locations)
        upgraded.set()

    thread = threading.Thread(target=up)
    with psycopg.connect(database_url) as worker, psycopg.connect(database_url, autocommit=True) as looker:
        worker.execute("INSERT INTO shop.orders (order_id) VALUES ('1')")
        thread.start()
        # The ALTER waits behind the worker, and then no longer: its lock timeout has passed.
        wait_until(looker, "SELECT count(*) = 1 FROM pg_locks WHERE relation = 'shop.orders'::regclass AND NOT granted")
        wait_until(looker, "SELECT count(*) = 0 FROM pg_locks WHERE relation = 'shop.orders'::regclass AND NOT granted")
        assert not upgraded.is_set()
    thread.join()

    assert upgraded.is_set()
    assert rows(database_url, "SELECT order_id, note FROM shop.orders") == [("1", None)]


def wait_until(connection: psycopg.Connection[Any], query: str) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=120)
    while connection.execute(query).fetchone() != (True,):
        assert datetime.now(UTC) < deadline, query


def test_a_database_without_migrations_is_said_in_one_line(empty_database_url: str):
    with pytest.raises(
        ConfigurationError, match=r"^the database is not migrated \(penstock_schemas\): run `penstock migrate up`$"
    ):
        check_migrated(empty_database_url, load_registry(()))
    with psycopg.connect(empty_database_url) as connection, pytest.raises(ConfigurationError, match="migrate up"):
        check_migrated(connection, load_registry(()))


def test_an_old_worker_may_start_on_a_newer_database(database_url: str):
    run(database_url, "UPDATE penstock.alembic_version SET version_num = '0999'")

    check_migrated(database_url, load_registry(()))
    assert states(database_url, load_registry(()))[0].current == "0999"
    with pytest.raises(ConfigurationError, match="0999"):
        upgrade(database_url, load_registry(()))


def test_migrate_up_of_an_older_release_leaves_a_newer_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", database_url)
    run(database_url, "UPDATE penstock.alembic_version SET version_num = '0999'")

    up(hands_over=True)

    assert "at 0999, further than this release" in capsys.readouterr().out
    assert states(database_url, load_registry(()))[0].current == "0999"


def test_a_database_that_is_away_is_said_in_one_line():
    with pytest.raises(ConfigurationError, match=r"^the database says: [^\n]*$"):
        upgrade("postgresql://nobody@127.0.0.1:1/nothing", load_registry(()))


def test_a_package_makes_its_tables_once(database_url: str, shop: Shop):
    registry = shop.declares(Order, Customer, Click)

    written = create(database_url, registry, "shop", "first tables", shop.locations)
    assert written.path is not None
    assert written.path.name.endswith("_first_tables.py")
    assert "penstock.create_schema(" in shop.files[0]
    with pytest.raises(ConfigurationError, match=r"not migrated \(shop\)"):
        create(database_url, registry, "shop", "too early", shop.locations)
    assert upgrade(database_url, registry, shop.locations) == [f"shop:{states(database_url, registry, shop.locations)[1].head}"]
    check_migrated(database_url, registry, shop.locations)

    again = create(database_url, registry, "shop", "nothing", shop.locations)
    assert (again.path, again.kept, len(shop.files)) == (None, (), 1)
    # Ours sees nothing of it either.
    assert create(database_url, registry, OURS, "nothing", shop.locations).path is None
    assert rows(database_url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'orders' ORDER BY indexname") == [
        ("CREATE INDEX orders__extra_idx ON shop.orders USING btree (order_id) WHERE (_extra IS NOT NULL)",),
        ("CREATE INDEX orders_lines_gin_idx ON shop.orders USING gin (lines)",),
        ("CREATE UNIQUE INDEX orders_pkey ON shop.orders USING btree (order_id)",),
        ("CREATE INDEX orders_placed_at_idx ON shop.orders USING btree (placed_at)",),
        ("CREATE INDEX orders_total_f85af541_idx ON shop.orders USING btree (total) WHERE (total > (0)::numeric)",),
    ]


def test_a_package_goes_down_and_up_again(database_url: str, shop: Shop):
    before = rows(database_url, _OBJECTS)
    registry = shop.declares(Order, Click)
    create(database_url, registry, "shop", "first", shop.locations)
    upgrade(database_url, registry, shop.locations)
    made = rows(database_url, _OBJECTS)

    downgrade(database_url, registry, "shop", locations=shop.locations)
    assert rows(database_url, _OBJECTS) == before
    upgrade(database_url, registry, shop.locations)
    assert rows(database_url, _OBJECTS) == made


def test_down_leaves_a_schema_in_which_somebody_else_keeps_something(database_url: str, shop: Shop):
    registry = shop.declares(Customer)
    create(database_url, registry, "shop", "first", shop.locations)
    upgrade(database_url, registry, shop.locations)
    run(database_url, "CREATE VIEW shop.somebody_elses AS SELECT 1 AS one")

    downgrade(database_url, registry, "shop", locations=shop.locations)
    assert rows(database_url, "SELECT relname FROM pg_class WHERE relnamespace = 'shop'::regnamespace") == [("somebody_elses",)]


def test_every_kind_of_column_is_compared_as_equal(database_url: str, shop: Shop):
    from datetime import date

    class Everything(Record):
        __record__ = Declaration(type="shop.all", table="shop.everything", key=("number", "day", "name", "flag", "uid"))
        number: int
        day: date
        name: str
        flag: bool
        uid: UUID
        share: float | None = None
        price: Decimal | None = None
        at: AwareDatetime | None = None
        data: dict[str, Any] | None = None
        state: Literal["a", "b"] | None = None

    registry = shop.declares(Everything)
    create(database_url, registry, "shop", "everything", shop.locations)
    upgrade(database_url, registry, shop.locations)

    assert create(database_url, registry, "shop", "nothing", shop.locations).path is None


def test_what_is_no_longer_declared_stays_until_contracted(database_url: str, shop: Shop):
    both = shop.declares(OrderWithNote, Customer)
    create(database_url, both, "shop", "first", shop.locations)
    upgrade(database_url, both, shop.locations)
    less = shop.declares(Order)

    kept = create(database_url, less, "shop", "less", shop.locations)
    assert (kept.path, kept.kept) == (None, ("shop.customers", "shop.orders.note"))
    contracted = create(database_url, less, "shop", "contract", shop.locations, is_contracting=True)
    assert contracted.path is not None
    upgrade(database_url, less, shop.locations)
    assert rows(database_url, "SELECT to_regclass('shop.customers')") == [(None,)]
    assert create(database_url, less, "shop", "nothing", shop.locations).kept == ()


class _OtherKey(Record):
    __record__ = declaration(key=("order_id", "shop_id"))
    order_id: str
    shop_id: str
    customer_id: str | None = None
    at: AwareDatetime | None = None


class _OtherParent(Record):
    __record__ = declaration(parent=Parent("customer_id", "shop.customer"))
    order_id: str
    customer_id: str
    at: AwareDatetime | None = None


class _OtherPartitioning(Record):
    __record__ = declaration(key=("order_id", "at"), append_only="at")
    order_id: str
    customer_id: str | None = None
    at: AwareDatetime


class _OtherType(Record):
    __record__ = declaration()
    order_id: str
    customer_id: int | None = None
    at: AwareDatetime | None = None


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (_OtherKey, "shop.order: its key cannot change from order_id to order_id, shop_id: "),
        (_OtherParent, "shop.order: its parent cannot change from none to "),
        (_OtherPartitioning, "shop.order: its key cannot change from order_id to order_id, at: "),
        (_OtherType, "shop.orders.customer_id: a column's type cannot change from text to bigint: declare a new column"),
    ],
)
def test_what_cannot_change_is_refused_in_one_line(database_url: str, shop: Shop, changed: type[Record], line: str):
    class Plain(Record):
        __record__ = declaration()
        order_id: str
        customer_id: str | None = None
        at: AwareDatetime | None = None

    create(database_url, shop.declares(Plain, Customer), "shop", "first", shop.locations)
    upgrade(database_url, shop.declares(Plain, Customer), shop.locations)

    with pytest.raises(ConfigurationError) as refused:
        create(database_url, shop.declares(changed, Customer), "shop", "change", shop.locations)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)
    assert len(shop.files) == 1


def test_append_only_cannot_be_taken_back(database_url: str, shop: Shop):
    class Kept(Record):
        __record__ = Declaration(type="shop.click", table="shop.clicks", key=("id", "at"))
        id: UUID
        at: AwareDatetime
        page: str | None = None

    create(database_url, shop.declares(Click), "shop", "first", shop.locations)
    upgrade(database_url, shop.declares(Click), shop.locations)

    with pytest.raises(ConfigurationError, match=r"^shop.click: its append_only cannot change from RANGE \(at\) to none"):
        create(database_url, shop.declares(Kept), "shop", "change", shop.locations)


def test_partitions_cover_the_retention_and_two_months_ahead(database_url: str, shop: Shop):
    registry = shop.declares(Click)
    create(database_url, registry, "shop", "first", shop.locations)
    steps(database_url, registry, "shop", 1, shop.locations)
    made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'shop.clicks'::regclass"
    assert rows(database_url, made) in ([(5,)], [(6,)])  # 60 days reach into the second or third month before

    with psycopg.connect(database_url, autocommit=True) as connection:
        later = datetime(2031, 1, 15, tzinfo=UTC)
        names = ["clicks_y2030m11", "clicks_y2030m12", "clicks_y2031m01", "clicks_y2031m02", "clicks_y2031m03"]
        assert ensure_partitions(connection, registry["shop.click"], later) == names
        assert ensure_partitions(connection, registry["shop.click"], later) == []
        with psycopg.connect(database_url) as reader:
            reader.execute("SELECT FROM shop.clicks")  # a long query must not make writers queue behind us
            with pytest.raises(psycopg.errors.LockNotAvailable):
                ensure_partitions(connection, registry["shop.click"], datetime(2031, 2, 15, tzinfo=UTC))
    run(database_url, "INSERT INTO shop.clicks (id, at) VALUES (gen_random_uuid(), '2031-03-31T23:59:59Z')")
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        run(database_url, "INSERT INTO shop.clicks (id, at) VALUES (gen_random_uuid(), '2031-04-01T00:00:00Z')")
    assert create(database_url, registry, "shop", "nothing", shop.locations).path is None


def test_packages_come_after_those_they_depend_on(database_url: str, tmp_path: Path):
    """`address` sorts before `shop`, but its parents live there."""

    class Visit(Record):
        __record__ = Declaration(
            type="address.visit", table="address.visits", key="id", parent=Parent("customer_id", "shop.customer")
        )
        id: str
        customer_id: str

    shop, address = Shop(tmp_path), Shop(tmp_path, "address")
    shop.owns(Customer)
    address.owns(Visit)
    registry, locations = registry_of(Visit, Customer), {**address.locations, **shop.locations}
    create(database_url, registry, "shop", "customers", locations)
    upgrade(database_url, shop.declares(Customer), locations)
    create(database_url, registry, "address", "visits", locations)
    downgrade(database_url, registry, "shop", locations=locations)

    applied = upgrade(database_url, registry, locations)
    assert [revision.partition(":")[0] for revision in applied] == ["shop", "address"]
    assert create(database_url, registry, "address", "nothing", locations).path is None
    assert create(database_url, registry, "shop", "nothing", locations).path is None
    with pytest.raises(ConfigurationError, match="other objects depend on it"):
        downgrade(database_url, registry, "shop", locations=locations)


def test_a_package_without_migrations_is_told_how_to_have_them(database_url: str, shop: Shop):
    with pytest.raises(ConfigurationError, match=r"PENSTOCK_MIGRATIONS=shop=FOLDER"):
        upgrade(database_url, shop.declares(Customer))


def test_two_packages_cannot_share_a_schema(database_url: str, tmp_path: Path):
    class Stray(Record):
        __record__ = Declaration(type="stray.one", table="shop.strays", key="id")
        id: str

    Shop(tmp_path).owns(Customer)
    Shop(tmp_path, "other").owns(Stray)
    with pytest.raises(ConfigurationError, match="both put tables into the PostgreSQL schema 'shop'"):
        upgrade(database_url, registry_of(Stray, Customer))


EVENT = "0193b3e0-0000-8000-8000-000000000001"


def stamp(version: int) -> str:
    return f"{version:016x}{EVENT.replace('-', '')}"


class Stay(Record):
    """What the next release of the package knows and old workers do not: each rule, each with a field in `_extra`."""

    __record__ = Declaration(
        type="shop.stay", table="shop.stays", key="id", lifecycle=Lifecycle("status", terminal=("done",), moves=("ended",))
    )
    id: str
    status: str | None = None
    note: str | None = None
    guests: int | None = None
    ended: AwareDatetime | None = None
    most: Max[int] | None = None
    origin: First[str] | None = None
    data: dict[str, Any] | None = None


class OldStay(Record):
    __record__ = Declaration(type="shop.stay", table="shop.stays", key="id", lifecycle=Lifecycle("status", terminal=("done",)))
    id: str
    status: str | None = None


_PROMOTED = "SELECT id, {}, _stamps, _extra FROM shop.stays ORDER BY id"


@pytest.fixture
def stays(database_url: str, shop: Shop):
    """A table whose old workers have seen newer producers' events; its next migration is written but not applied."""
    create(database_url, shop.declares(OldStay), "shop", "first", shop.locations)
    upgrade(database_url, shop.declares(OldStay), shop.locations)

    def insert(key: str, version: int, extra: str, stamps: str, status: str | None = None) -> None:
        run(
            database_url,
            "INSERT INTO shop.stays (id, status, _version, _event, _extra, _stamps) VALUES (%s, %s, %s, %s, %s, %s)",
            key, status, version, EVENT, extra, stamps,
        )  # fmt: skip

    return insert


def test_a_new_column_takes_over_what_came_before_it(database_url: str, shop: Shop, stays: Any):
    base = f'"@full": "{stamp(5)}", "@state": "0{stamp(5)}"'
    stays("1 same event", 5, '{"note": "hello"}', f'{{{base}, "+note": "{stamp(5)}"}}')
    stays("2 newer", 7, '{"note": "hello"}', f'{{{base}, "+note": "{stamp(7)}"}}')
    stays("3 older", 5, '{"note": "hello"}', f'{{{base}, "+note": "{stamp(3)}"}}')
    stays("4 unfit", 5, '{"guests": "two", "note": 7}', f'{{{base}, "+note": "{stamp(5)}", "+guests": "{stamp(5)}"}}')
    stays("5 mixed", 5, '{"guests": "2", "pets": 1}', f'{{{base}, "+pets": "{stamp(5)}", "+guests": "{stamp(5)}"}}')
    stays("6 null", 5, '{"note": null}', f'{{{base}, "+note": "{stamp(5)}"}}')
    registry = shop.declares(Stay)
    create(database_url, registry, "shop", "more columns", shop.locations)
    upgrade(database_url, registry, shop.locations)

    full = {"@full": stamp(5), "@state": f"0{stamp(5)}"}
    assert rows(database_url, _PROMOTED.format("note, guests")) == [
        ("1 same event", "hello", None, full, None),
        ("2 newer", "hello", None, {**full, "note": stamp(7)}, None),
        ("3 older", "hello", None, full, None),
        ("4 unfit", None, None, {**full, "+note": stamp(5), "+guests": stamp(5)}, {"guests": "two", "note": 7}),
        ("5 mixed", None, 2, {**full, "+pets": stamp(5)}, {"pets": 1}),
        ("6 null", None, None, full, None),
    ]


def test_each_rule_takes_over_by_its_own_stamp(database_url: str, shop: Shop, stays: Any):
    done = f'"@full": "{stamp(5)}", "@state": "1{stamp(5)}"'
    stays("1 ended with the state", 5, '{"ended": "2026-11-01T00:00:00Z"}', f'{{{done}, "+ended": "{stamp(5)}"}}', "done")
    stays("2 ended apart", 6, '{"ended": "2026-11-01T00:00:00Z"}', f'{{{done}, "+ended": "{stamp(6)}"}}', "done")
    stays("3 no zone", 5, '{"ended": "2026-11-01T00:00:00"}', f'{{{done}, "+ended": "{stamp(5)}"}}', "done")
    stays("4 not a time", 5, '{"ended": "now"}', f'{{{done}, "+ended": "{stamp(5)}"}}', "done")
    stays("5 most", 5, '{"most": 3}', f'{{{done}, "+most": "{stamp(5)}"}}', "done")
    stays("6 origin", 5, '{"origin": "web"}', f'{{{done}, "+origin": "{stamp(5)}"}}', "done")
    stays("7 data", 5, '{"data": {"a": [1]}}', f'{{{done}, "+data": "{stamp(5)}"}}', "done")
    registry = shop.declares(Stay)
    create(database_url, registry, "shop", "more columns", shop.locations)
    upgrade(database_url, registry, shop.locations)

    full, day = {"@full": stamp(5), "@state": f"1{stamp(5)}"}, datetime(2026, 11, 1, tzinfo=UTC)
    assert rows(database_url, _PROMOTED.format("ended, most, origin, data")) == [
        ("1 ended with the state", day, None, None, None, full, None),
        ("2 ended apart", day, None, None, None, full, None),
        ("3 no zone", None, None, None, None, {**full, "+ended": stamp(5)}, {"ended": "2026-11-01T00:00:00"}),
        ("4 not a time", None, None, None, None, {**full, "+ended": stamp(5)}, {"ended": "now"}),
        ("5 most", None, 3, None, None, full, None),
        ("6 origin", None, None, "web", None, {**full, "origin": stamp(5)}, None),
        ("7 data", None, None, None, {"a": [1]}, full, None),
    ]


def test_a_row_whose_last_unknown_field_was_taken_over_is_plain_again(database_url: str, shop: Shop, stays: Any):
    class Known(Record):
        __record__ = OldStay.__record__
        id: str
        status: str | None = None
        note: str | None = None

    stays("1", 5, '{"note": "hello"}', f'{{"@full": "{stamp(5)}", "@state": "0{stamp(5)}", "+note": "{stamp(5)}"}}')
    registry = shop.declares(Known)
    create(database_url, registry, "shop", "note", shop.locations)
    upgrade(database_url, registry, shop.locations)

    assert rows(database_url, _PROMOTED.format("note")) == [("1", "hello", None, None)]


def test_what_old_workers_leave_behind_later_is_taken_over_by_the_next_up(database_url: str, shop: Shop, stays: Any):
    registry = shop.declares(Stay)
    create(database_url, registry, "shop", "more columns", shop.locations)
    upgrade(database_url, registry, shop.locations)
    base = f'"@full": "{stamp(5)}", "@state": "0{stamp(5)}"'
    for key, version in (("1 newer", 6), ("2 same", 5), ("3 older", 4)):
        stays(
            key,
            max(5, version),
            '{"note": "theirs", "most": 1}',
            f'{{{base}, "+note": "{stamp(version)}", "+most": "{stamp(5)}"}}',
        )
    run(database_url, "UPDATE shop.stays SET note = 'ours', most = 2")

    assert upgrade(database_url, registry, shop.locations) == []
    full = {"@full": stamp(5), "@state": f"0{stamp(5)}"}
    assert rows(database_url, _PROMOTED.format("note, most")) == [
        ("1 newer", "theirs", 2, {**full, "note": stamp(6)}, None),
        ("2 same", "theirs", 2, full, None),
        ("3 older", "ours", 2, full, None),
    ]
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert promote_all(connection, registry["shop.stay"]) == 0
