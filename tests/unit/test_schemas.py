"""Record types, their declaration, the registry and the wire format."""

from __future__ import annotations

import enum
import json
import sys
import types
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from penstock_schemas import (
    Declaration,
    DeclarationError,
    First,
    Index,
    Kind,
    Lifecycle,
    Max,
    Min,
    Parent,
    Record,
    RecordError,
    Registry,
    Rule,
    load_registry,
    wire,
)
from penstock_schemas.records.translation import TranslationSession
from tests.records import RECORDS, REGISTRY, Note, Pair, Run, Site


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.Enum):
    YES = "yes"


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


def declare(annotation=str | None, default=None, **words):
    """A record class with the key `k` and one more column `v`."""
    declaration = Declaration(**{"type": "shop.order", "table": "shop.orders", "key": "k"} | words)
    annotations = {"k": str, "v": annotation}
    return type(
        "Order", (Record,), {"__annotations__": annotations, "v": default, "__record__": declaration, "__module__": "shop.x"}
    )


class TestColumns:
    @pytest.mark.parametrize(
        ("annotation", "kind"),
        [
            (str, Kind.TEXT),
            (Literal["a", "b"], Kind.TEXT),
            (Literal["a", None], Kind.TEXT),  # noqa: PYI061  # users write it
            (Literal[1, 2], Kind.BIGINT),
            (Literal[True], Kind.BOOLEAN),
            (Literal[1, "a"], Kind.JSONB),
            (Colour, Kind.TEXT),
            (Word, Kind.TEXT),
            (Level, Kind.BIGINT),
            (Mixed, Kind.JSONB),
            (int, Kind.BIGINT),
            (Annotated[int, Field(ge=0)], Kind.BIGINT),
            (float, Kind.DOUBLE),
            (bool, Kind.BOOLEAN),
            (AwareDatetime, Kind.TIMESTAMPTZ),
            (date, Kind.DATE),
            (UUID, Kind.UUID),
            (Decimal, Kind.NUMERIC),
            (dict[str, Any], Kind.JSONB),
            (list[int], Kind.JSONB),
            (set[int], Kind.JSONB),
            (int | str, Kind.JSONB),
            (Any, Kind.JSONB),
            (Pair, Kind.JSONB),
        ],
    )
    def test_annotation_gives_the_column_also_where_it_may_be_none(self, annotation, kind):
        assert declare(annotation).__record_type__.by_name["v"].kind is kind
        assert declare(annotation | None).__record_type__.by_name["v"].kind is kind

    @pytest.mark.parametrize(
        ("annotation", "rule"),
        [
            (str | None, Rule.NEWEST),
            (First[str] | None, Rule.FIRST),
            (First[str | None], Rule.FIRST),
            (Min[int] | None, Rule.MIN),
            (Min[AwareDatetime] | None, Rule.MIN),
            (Max[float | None], Rule.MAX),
        ],
    )
    def test_rule_stands_inside_or_outside_of_the_union(self, annotation, rule):
        column = declare(annotation).__record_type__.by_name["v"]

        assert column.rule is rule
        assert type(None) not in getattr(column.annotation, "__args__", ())

    def test_constraints_of_the_field_validate_the_column(self):
        for annotation in (Annotated[int, Field(ge=0)] | None, Annotated[int | None, Field(ge=0)]):
            column = declare(annotation).__record_type__.by_name["v"]
            with pytest.raises(ValidationError, match="greater than or equal to 0"):
                TypeAdapter(column.annotation).validate_python(-1)

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            (datetime | None, "v: datetime is no column; use pydantic.AwareDatetime"),
            (bytes | None, "v: bytes is no column; use str"),
            (time | None, "v: time is no column"),
            (timedelta | None, "v: timedelta is no column; use float, in seconds"),
            (Min[dict] | None, "v: jsonb has no order that min could use"),
            (Max[bool] | None, "v: boolean has no order that max could use"),
            (Max[UUID] | None, "v: uuid has no order that max could use"),
        ],
    )
    def test_annotations_without_a_column_are_refused(self, annotation, message):
        with pytest.raises(DeclarationError, match=message):
            declare(annotation)

    def test_columns_of_a_lifecycle_are_ordered_by_its_rule(self):
        rules = {column.name: column.rule for column in Run.__record_type__.columns}

        assert rules == {
            "run_id": "newest",
            "site_id": "newest",
            "label": "newest",
            "details": "newest",
            "origin": "first",
            "opened_by": "first",
            "lowest": "min",
            "started_at": "min",
            "highest": "max",
            "last_word": "max",
            "status": "state",
            "ended_at": "state",
        }

    def test_what_follows_from_the_columns(self):
        run, note = Run.__record_type__, Note.__record_type__

        assert (run.has_first, run.is_delete_final) == (True, True)
        assert (note.has_first, note.is_delete_final) == (False, False)
        assert (Site.__record_type__.has_first, Site.__record_type__.is_delete_final) == (False, True)
        assert (note.name, note.key, note.owner) == ("lab.note", ("number",), "tests")
        assert note.doc.startswith("A child whose columns are all `newest`")
        assert [column.name for column in note.values] == ["site_id", "text", "size", "tags"]
        assert (note.declaration.schema, note.declaration.table_name) == ("lab", "notes")


class TestDeclaration:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"type": "order"}, "'order': write it as domain.name"),
            ({"type": "shop.Order"}, "'shop.Order': write it as domain.name"),
            ({"type": "a.b.c"}, "'a.b.c': write it as domain.name"),
            ({"type": "shop." + "x" * 64}, "at most 63 characters"),
            ({"table": "orders"}, "'orders': write it as domain.name"),
            ({"table": "shop.orders; drop table x"}, "write it as domain.name"),
            ({"key": ()}, "shop.order: a record needs a key"),
            ({"key": ("k", "k")}, "shop.order: the key names a column twice"),
            ({"key": "nope"}, "shop.order: key names 'nope', which is no field of the record"),
            ({"parent": Parent("k", "shop.shop")}, "the parent's column 'k' must not be part of the key"),
            ({"parent": Parent("nope", "shop.shop")}, "parent names 'nope', which is no field"),
            ({"append_only": "v"}, "the time column 'v' must be part of the key"),
            ({"append_only": "k"}, "'k' must be an AwareDatetime"),
            ({"append_only": "k", "parent": Parent("v", "shop.shop")}, "an append-only record has no parent"),
            ({"lifecycle": Lifecycle("nope", terminal=())}, "lifecycle names 'nope', which is no field"),
            ({"lifecycle": Lifecycle("v", terminal=(), moves=("nope",))}, "lifecycle names 'nope', which is no field"),
            ({"lifecycle": Lifecycle("v", terminal=(), moves=("k",))}, "'k'.* part of the key and cannot merge"),
            ({"subject": "nope"}, "subject names 'nope', which is no field"),
            ({"indexes": [Index("v", "nope")]}, "indexes names 'nope', which is no field"),
        ],
    )
    def test_contradictions_are_refused(self, words, message):
        with pytest.raises(DeclarationError, match=message):
            declare(**words)

    def test_a_person_is_named_by_what_has_one_form(self):
        with pytest.raises(DeclarationError, match="the subject 'v' must be a text, an integer or a UUID"):
            declare(dict[str, Any] | None, subject="v")

    def test_state_is_a_text(self):
        with pytest.raises(DeclarationError, match="the state 'v' must be a text"):
            declare(int | None, lifecycle=Lifecycle("v", terminal=("done",)))

    @pytest.mark.parametrize("words", [{"key": ("k", "v")}, {"lifecycle": Lifecycle("v", terminal=("done",))}])
    def test_an_enum_that_is_compared_is_a_value(self, words):
        with pytest.raises(DeclarationError, match="'v' is compared, make its enum a StrEnum or an IntEnum"):
            declare(Word, default=... if "key" in words else None, **words)

    def test_json_is_no_key(self):
        with pytest.raises(DeclarationError, match="'v' is JSON and cannot be part of the key"):
            declare(dict, key=("k", "v"))

    @pytest.mark.parametrize("default", ["x", ...])
    def test_fields_beside_key_and_parent_may_be_absent(self, default):
        with pytest.raises(DeclarationError, match="give 'v' the default None"):
            declare(str, default=default)

    def test_parents_field_may_be_required(self):
        assert declare(str, default=..., parent=Parent("v", "shop.shop")).__record_type__.by_name["v"].kind is Kind.TEXT

    def test_declaration_is_frozen_and_normal(self):
        declaration = Declaration(type="a.b", table="a.b", key="k", indexes=[Index("k", method="gin", where="k = 1")])

        assert (declaration.key, declaration.indexes[0].columns) == (("k",), ("k",))
        with pytest.raises(AttributeError):
            declaration.key = ("other",)  # type: ignore[misc]

    def test_lifecycle_names_all_its_columns(self):
        assert Lifecycle("status", terminal=("done",), moves=("error",)).columns == ("status", "error")


class TestRegistry:
    def test_parents_come_before_their_children(self):
        assert list(REGISTRY) == [
            "lab.mark",
            "lab.site",
            "lab.note",
            "lab.pair",
            "lab.reading",
            "lab.remark",
            "lab.run",
            "lab.tally",
        ]
        assert REGISTRY["lab.run"] is Run.__record_type__
        assert REGISTRY.classes["lab.run"] is Run
        assert len(REGISTRY) == len(RECORDS)

    def test_types_belong_to_the_package_that_declares_them(self):
        assert len(REGISTRY.owned_by("tests")) == len(RECORDS)
        assert REGISTRY.owned_by("penstock_schemas") == []

    def test_own_types_are_always_there(self):
        assert set(load_registry()) >= {
            "translation.session",
            "translation.task",
            "scheduler.pipeline",
            "scheduler.job",
            "scheduler.execution",
            "orchestration.agent",
            "orchestration.session",
            "orchestration.task",
            "orchestration.achievement",
            "orchestration.audit_log",
            "guardian.memory",
            "guardian.dream_cycle",
            "guardian.profile_snapshot",
            "guardian.emotional_state",
            "guardian.interaction",
            "guardian.session",
            "guardian.access_log",
            "guardian.metric",
        }

    def test_what_a_type_says_of_privacy(self):
        types = load_registry()
        said = {
            name: (
                declaration.subject,
                declaration.content,
                declaration.category,
                declaration.retention and declaration.retention.days,
            )
            for name, declaration in ((name, record.declaration) for name, record in types.items())
            if declaration.content
        }
        assert said == {
            "orchestration.audit_log": ("actor", "audit log", "internal", None),
            "guardian.memory": ("user_id", "memory", "sensitive", 730),
            "guardian.dream_cycle": ("user_id", "memory", "sensitive", 730),
            "guardian.profile_snapshot": ("user_id", "profile data", "sensitive", 1095),
            "guardian.emotional_state": ("user_id", "emotional state", "sensitive", 180),
            "guardian.interaction": ("user_id", "interaction history", "internal", 90),
            "guardian.session": ("user_id", "interaction history", "internal", 90),
            "guardian.access_log": ("user_id", "audit log", "internal", 2555),
            "guardian.metric": (None, "system", "internal", 365),
        }
        assert [name for name, record in types.items() if record.declaration.is_audit_log] == [
            "guardian.access_log",
            "orchestration.audit_log",
        ]

    def test_modules_add_their_types(self):
        assert set(load_registry(["tests.records"])) - set(load_registry()) == set(REGISTRY)

    def test_module_that_is_not_there_is_named(self):
        with pytest.raises(DeclarationError, match="record module 'no_such_module' cannot be imported"):
            load_registry(["no_such_module"])

    def test_module_may_import_others_types(self, monkeypatch):
        module = types.ModuleType("shop_records")
        module.__dict__.update(Note=Note, Site=Site, Record=Record, Again=Note)
        monkeypatch.setitem(sys.modules, "shop_records", module)

        assert "lab.note" in load_registry(["tests.records", "shop_records"])

    def test_two_classes_of_one_type_are_refused(self):
        with pytest.raises(DeclarationError, match=r"shop\.order is declared twice"):
            Registry([declare(), declare()])

    def test_two_types_of_one_table_are_refused(self):
        with pytest.raises(DeclarationError, match=r"shop\.bill and shop\.order share the table 'shop\.orders'"):
            Registry([declare(), declare(type="shop.bill")])

    def test_penstocks_own_schema_is_refused(self):
        with pytest.raises(DeclarationError, match="the PostgreSQL schema 'penstock' is Penstock's own"):
            Registry([declare(table="penstock.orders")])

    @pytest.mark.parametrize(
        ("annotation", "parent", "message"),
        [
            (str, "shop.shop", "shop.order: its parent 'shop.shop' is not declared"),
            (str, "lab.pair", "'lab.pair' cannot be a parent"),
            (str, "lab.reading", "'lab.reading' cannot be a parent"),
            (int, "lab.site", "'v' and the key of 'lab.site' are of different kinds"),
            (str, "shop.order", "shop.order is its own ancestor: shop.order -> shop.order"),
        ],
    )
    def test_impossible_parents_are_refused(self, annotation, parent, message):
        with pytest.raises(DeclarationError, match=message):
            Registry([*REGISTRY.classes.values(), declare(annotation, default=..., parent=Parent("v", parent))])


class TestToJson:
    def test_only_what_was_set_is_sent(self):
        assert json.loads(Run(run_id="r", site_id="s", label=None).to_json()) == {"run_id": "r", "site_id": "s", "label": None}

    def test_later_changes_are_sent(self):
        run = Run(run_id="r", site_id="s")
        run.lowest = 3

        assert json.loads(run.to_json()) == {"run_id": "r", "site_id": "s", "lowest": 3}

    def test_times_keep_their_zone_and_decimals_their_digits(self):
        moment = datetime(2026, 11, 21, 12, tzinfo=timezone(timedelta(hours=2)))

        assert declare(AwareDatetime | None)(k="a", v=moment).to_json() == b'{"k":"a","v":"2026-11-21T12:00:00+02:00"}'
        assert declare(Decimal | None)(k="a", v=Decimal("1.50")).to_json() == b'{"k":"a","v":"1.50"}'

    def test_naive_times_unknown_fields_and_infinity_are_refused_at_once(self):
        for annotation, values in [
            (AwareDatetime | None, {"v": datetime(2026, 11, 21)}),  # noqa: DTZ001  # naive is what is refused
            (float | None, {"v": float("nan")}),
            (float | None, {"v": float("inf")}),
            (str | None, {"w": "x"}),
        ]:
            with pytest.raises(ValidationError):
                declare(annotation)(k="a", **values)

    @pytest.mark.parametrize("value", ["\0", "a\0b", "\\\0", "\\\\\0", {"a": ["\0"]}, {"\0": 1}])
    def test_nul_is_refused_wherever_it_stands(self, value):
        with pytest.raises(RecordError, match=r"shop\.order: a text holds a NUL character"):
            declare(Any)(k="a", v=value).to_json()

    @pytest.mark.parametrize("value", ["\\u0000", "\\\\u0000", 'C:\\u0000"', "\x01", "\u2028\U0001f600"])
    def test_text_that_looks_like_an_escaped_nul_is_none(self, value):
        assert json.loads(declare(Any)(k="a", v=[value]).to_json())["v"] == [value]

    def test_lone_surrogates_are_refused(self):
        with pytest.raises(RecordError, match="surrogates not allowed"):
            declare()(k="a", v="\ud800").to_json()

    def test_what_json_cannot_say_is_refused(self):
        loop: dict[str, Any] = {}
        loop["loop"] = loop
        deep: dict[str, Any] = {}
        for _ in range(10_000):
            deep = {"deep": deep}

        for value in (object(), b"\xff", loop, deep):
            with pytest.raises(RecordError, match=r"^shop\.order: "):
                declare(Any)(k="a", v=value).to_json()


class TestWire:
    EPOCH = UUID("0199a000-1111-7a00-9000-00000000000a")

    def test_epochs_are_uuid7_of_now_and_differ(self):
        before = datetime.now(UTC)
        epochs = [wire.new_epoch() for _ in range(100)]

        assert len(set(epochs)) == 100
        for epoch in epochs:
            assert (epoch.version, epoch.variant) == (7, "specified in RFC 4122")
            assert 0 <= (epoch.int >> 80) - int(before.timestamp() * 1000) < 60_000

    def test_later_epochs_sort_after_earlier_ones(self, monkeypatch):
        milliseconds = iter(range(1_795_222_596_000, 1_795_222_596_050))
        monkeypatch.setattr(wire.time, "time_ns", lambda: next(milliseconds) * 1_000_000)
        epochs = [wire.new_epoch() for _ in range(50)]

        assert epochs == sorted(epochs)

    def test_event_ids_are_uuid8_and_sort_by_number(self):
        numbers = [0, 1, 9, 10, 255, 4096, 2**32, 2**48 - 1]
        ids = [wire.event_id(self.EPOCH, number) for number in numbers]

        assert ids == sorted(ids)
        assert ids[3] == "0199a000-1111-8a00-9000-00000000000a"
        for text in ids:
            assert (UUID(text).version, UUID(text).variant, str(UUID(text))) == (8, "specified in RFC 4122", text)
            assert text.startswith(wire.event_id_prefix(self.EPOCH))

    def test_ids_of_different_epochs_differ(self):
        assert len({wire.event_id(wire.new_epoch(), 1) for _ in range(100)}) == 100

    def test_envelope_carries_its_events_and_says_the_same_in_its_headers(self):
        events = [
            wire.encode_event("shop.order", "upsert", 1795222596000000, b'{"k":"\xc3\xa4"}'),
            wire.encode_event("shop.order", "delete", 7, b'{"k":"b"}'),
        ]
        dropped = [wire.DroppedRange(1, 3, "buffer_full")]
        envelope = wire.Envelope('b"illing', self.EPOCH, 4711, events, dropped, reply_to="answers")

        assert json.loads(envelope.body()) == {
            "v": 1,
            "producer": 'b"illing',
            "epoch": str(self.EPOCH),
            "seq": 4711,
            "dropped": [[1, 3, "buffer_full"]],
            "reply_to": "answers",
            "events": [
                {"type": "shop.order", "op": "upsert", "version": 1795222596000000, "data": {"k": "\u00e4"}},
                {"type": "shop.order", "op": "delete", "version": 7, "data": {"k": "b"}},
            ],
        }
        assert envelope.headers() == {"v": 1, "producer": 'b"illing', "epoch": str(self.EPOCH), "seq": 4711, "count": 2}

    def test_heartbeat_has_no_events_and_the_last_one_says_so(self):
        assert json.loads(wire.Envelope("billing", self.EPOCH, 12).body())["events"] == []
        assert "closed" not in json.loads(wire.Envelope("billing", self.EPOCH, 12).body())
        assert json.loads(wire.Envelope("billing", self.EPOCH, 12, is_closed=True).body())["closed"] is True


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    session = TranslationSession(session_id="1", metadata={"deep": [number]})
    with pytest.raises(RecordError, match=r"translation\.session: a number is -?(NaN|Infinity), which JSON does not have"):
        session.to_json()


def test_a_text_may_hold_the_word() -> None:
    assert TranslationSession(session_id="NaN", user_id="-Infinity").to_json() == b'{"session_id":"NaN","user_id":"-Infinity"}'
