"""Blocks against the validators: what is read without a closer look amounts to the same rows, and the usual is read so."""

from __future__ import annotations

import base64
import enum
import json
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from operator import itemgetter
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, AwareDatetime, Base64Bytes, BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema
from typing_extensions import TypedDict

from penstock_schemas import Declaration, Record, Registry
from penstock_schemas.column import Kind
from penstock_schemas.wire import CONTENT_TYPE, Envelope, encode_event
from penstock_worker.ingest.block_reader import BlockReader
from penstock_worker.ingest.decode import Decoded, decode, dissolve
from penstock_worker.ingest.groups import groups_of, with_repeated_keys
from penstock_worker.ingest.message import RawMessage, unwrap
from penstock_worker.ingest.stage import Stage
from penstock_worker.ingest.validate import Validators
from penstock_worker.store.copy_text import NULL, escaped, join_columns, json_texts
from penstock_worker.store.upsert import UpsertPlan
from tests.records import REGISTRY
from tests.series import Sample

EPOCH = UUID("0199a000-0000-7a00-9000-00000000000a")


class Colour(enum.StrEnum):
    RED = "red"
    BACKSLASH = "\\"


class Point(BaseModel):
    model_config = ConfigDict(extra="allow")

    x: float
    y: int = 0


class Options(TypedDict):
    x: float


class Thing(Record):
    """A column of every annotation."""

    __record__ = Declaration(type="lab.thing", table="lab.things", key="name")

    name: str
    whole: int | None = None
    number: float | None = None
    flag: bool | None = None
    at: AwareDatetime | None = None
    day: date | None = None
    uid: UUID | None = None
    money: Decimal | None = None
    word: Literal["a", "b\\c"] | None = None
    either: Literal["a", 1] | None = None
    colour: Colour | None = None
    short: Annotated[str, Field(max_length=3)] | None = None
    positive: Annotated[int, Field(gt=0)] | None = None
    data: dict[str, Any] | None = None
    items: list[int] | None = None
    point: Point | None = None
    route: tuple[Point, ...] | None = None
    words: tuple[str, ...] | None = None
    options: Options | None = None
    anything: Any = None
    unhashable: Annotated[dict[str, Any], WithJsonSchema({"examples": []})] | None = None


VALIDATORS = Validators(Registry([Thing]))
READER = BlockReader(VALIDATORS)
STAGE = Stage(UpsertPlan(VALIDATORS.records["lab.thing"]))
COLUMNS = STAGE.plan.record.columns

TEXTS = [
    '""',
    '"a"',
    '"b\\\\c"',
    '"\\\\"',
    '"t\\tn\\nr\\r"',
    '"\\ud83d\\ude00"',
    '"\\ud83d"',
    '"\\\\N"',
    '"red"',
    '"äöü"',
    '"abcd"',
]
NUMBERS = [
    "0",
    "-0",
    "7",
    "-1",
    "5.0",
    "1.10",
    "1e3",
    "1E+2",
    "1e999",
    "-1e999",
    "0.1234567890123456789",
    "9223372036854775807",
]
NUMBERS += [
    "9223372036854775808",
    "-9223372036854775809",
    "01",
    "1.",
    ".5",
    "+1",
    '"7"',
    '"1.5"',
    "NaN",
    "Infinity",
    '"NaN"',
    "9" * 500,
]
TIMES = [
    *(
        '"2026-11-01T00:00:00Z"',
        '"2026-11-01T00:00:00.5Z"',
        '"2026-11-01T00:00:00.123456+02:00"',
        '"2026-11-01T00:00:00-15:59"',
    ),
    *('"2026-11-01T00:00:00+16:00"', '"2026-11-01T00:00:00+02:60"', '"2026-02-30T00:00:00Z"', '"2026-11-01T24:00:00Z"'),
    *('"2026-11-01T00:00:60Z"', '"2026-11-01T00:00:00.1234567Z"', '"20261101T00:00:00.12345678Z"', '"2026-11-01 00:00:00Z"'),
    *('"2026-11-01T00:00:00z"', '"2026-11-01T00:00:00"', '"2026-W44-7T00:00:00Z"', '"0001-01-01T00:00:00+01:00"', "1793491200"),
    *('"9999-12-31T23:59:59-01:00"', '"0000-01-01T00:00:00Z"', '"2026-11-01"', '"2026-13-01"', '"2026-02-29"', '"20261101"'),
]
UUIDS = [
    '"0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01\\n"',
    *('"0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01"', '"0C7B1A52-6A1E-4F5C-9D55-1F0A6C1D2E01"', '"0c7b1a526a1e4f5c9d551f0a6c1d2e01"'),
    *('"urn:uuid:0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01"', '"0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e0g"'),
]
DOCUMENTS = [
    *("{}", '{"a":1}', ' { "a" : [ 1 , "\\n" ] } ', '{"a":1,"a":2}', '{"a":1.10}', '{"a":1e5}', '{"a":1E+400}', '{"a":-0}'),
    *('{"a":"\\ud800"}', '{"a":"\\uD83D\\uDE00"}', '{"a":"1.5 of 2e5"}', '{"a\\\\b":"\\t"}', '{"ä":"\\u00e4"}', '{"a":NaN}'),
    *("[" * depth + "]" * depth for depth in range(195, 203)),
    *('{"a":' * depth + "1" + "}" * depth for depth in range(195, 203)),
    *('{"a":' * 150 + "1" + "}" * 150, '{"a":' * 400 + "1" + "}" * 400, '{"a":%s}' % ("9" * 300), '{"a":%s}' % ("9" * 5000)),
    *(
        "[]",
        "[1,2]",
        '["1"]',
        "[1.5]",
        '{"x":1,"y":2}',
        '{"x":1.50}',
        '{"x":1e999}',
        '{"y":1}',
        "true",
        "false",
        "null",
        "{",
        "",
    ),
]
VALUES = [*TEXTS, *NUMBERS, *TIMES, *UUIDS, *DOCUMENTS]


def message(*events: bytes) -> RawMessage:
    return RawMessage(Envelope("lab", EPOCH, 0, events).body(), CONTENT_TYPE, {})


def thing(**values: str) -> bytes:
    """A full record; values are JSON."""
    data = {column.name: "null" for column in COLUMNS} | {"name": '"n"'} | values
    fields = ",".join(f'"{name}":{value}' for name, value in data.items())
    return encode_event("lab.thing", "upsert", 5, b"{%b}" % fields.encode())


#: Values that blocks take, by column.
FIT = {
    column.name: [value for value in VALUES if decode([message(thing(**{column.name: value}))], VALIDATORS, READER).blocks]
    for column in COLUMNS
}


def rows(decoded: Decoded, stage: Stage = STAGE) -> list[list[Any]]:
    """What COPY would read, each text turned into what it stands for."""
    lines = stage.lines(decoded.events, decoded.blocks).data.decode().split("\n")[:-1]
    kinds = stage.plan.types.values()
    return [[meaning(kind, text) for kind, text in zip(kinds, line.split("\t"), strict=True)] for line in lines]


def meaning(kind: str, text: str) -> Any:
    if text == NULL:
        return None
    for written, mark in (("\\t", "\t"), ("\\n", "\n"), ("\\r", "\r")):
        text = "\\\\".join(part.replace(written, mark) for part in text.split("\\\\"))
    text = text.replace("\\\\", "\\")
    if kind == Kind.TIMESTAMPTZ:
        return datetime.fromisoformat(text).astimezone(UTC)
    return json.loads(text, parse_float=Decimal, parse_int=Decimal) if kind == Kind.JSONB else text


@pytest.mark.parametrize("column", [column.name for column in COLUMNS])
def test_what_blocks_take_amounts_to_the_same_row(column: str) -> None:
    taken = 0
    for value in VALUES:
        raw = message(thing(**{column: value}))
        fast, slow = decode([raw], VALIDATORS, READER), decode([raw], VALIDATORS)
        if fast.blocks:
            taken += 1
            assert not slow.refused, f"{value} is refused: {slow.refused[0].verdict}"
            assert rows(fast) == rows(slow), value
        else:
            assert (len(fast.events), len(fast.refused)) == (len(slow.events), len(slow.refused))
    assert taken, "no value was taken"


def test_partial_records_amount_to_the_same_rows() -> None:
    """Apart by the fields that are set; also with a lifecycle, and with columns whose values decide."""
    parts: list[dict[str, Any]] = [
        {},
        {"error": "x"},
        {"status": "open"},
        {"status": "done", "error": "\\", "name": "n"},
        {"status": None},
        {"most": 7, "since": "2026-11-01T00:00:00Z"},
        {"name": None, "status": "failed"},
    ]
    data = [json.dumps({"site_id": f"s{place}"} | part).encode() for place, part in enumerate(parts * 2)]
    raw = message(*(encode_event("lab.site", "upsert", 5, part) for part in data))
    validators = Validators(REGISTRY)
    stage = Stage(UpsertPlan(REGISTRY["lab.site"]))
    fast, slow = decode([raw], validators, BlockReader(validators)), decode([raw], validators)
    assert (len(fast.blocks), fast.events, len(slow.events)) == (len(parts) - 1, [], len(data))
    assert rows(fast, stage) == rows(slow, stage)


def test_the_usual_needs_no_closer_look() -> None:
    usual = thing(
        whole="7",
        number="1.5",
        flag="true",
        at='"2026-11-01T13:30:00.020000+01:00"',
        day='"2026-11-01"',
        uid='"0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01"',
        money='"1.50"',
        word='"b\\\\c"',
        colour='"red"',
        data='{"page":1,"share":0.5,"text":"\\\\"}',
        items="[1,2]",
        point='{"x":1}',
    )
    decoded = decode([message(usual, thing(name='"m"'))], VALIDATORS, READER)
    assert ([len(block) for block in decoded.blocks], decoded.events, decoded.refused) == ([2], [], [])


@pytest.mark.parametrize(
    "event",
    [
        thing(name="null"),
        thing(more="1"),
        encode_event("lab.thing", "delete", 5, b'{"name":"n"}'),
        encode_event("lab.nothing", "upsert", 5, b'{"name":"n"}'),
        b'{"op":"upsert","version":5,"data":{}}',
        b'{"type":"","op":"upsert","version":5,"data":{}}',
        b'{"type":"","never":1}',
        thing(name=f'"{"n" * 3000}"'),
        thing(name='"\\u0000"'),
        thing()[:-1] + b',"more":"\xff"}',
    ],
    ids=[
        "no key",
        "unknown field",
        "delete",
        "unknown type",
        "no type",
        "empty type",
        "impossible type",
        "too long for an index",
        "NUL",
        "no text beside",
    ],
)
def test_what_is_odd_is_looked_at_alone(event: bytes) -> None:
    """With its message, that is; the others of the batch stay together in their block."""
    decoded = decode([message(thing()), message(thing(), event), message(thing())], VALIDATORS, READER)
    assert ([len(block) for block in decoded.blocks], len(decoded.events) + len(decoded.refused)) == ([2], 2)
    assert [envelope.count for envelope in decoded.envelopes] == [1, 1, 2]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("words", '["a\\u0000b"]'),
        ("route", '[{"x":1,"note":"\\u0000"}]'),
        ("data", '{"\\u0000":1}'),
        ("anything", '[["\\u0000"]]'),
    ],
)
def test_a_nul_harms_no_neighbour(column: str, value: str) -> None:
    good = [thing(name=f'"{name}"', **{column: GOOD[column]}) for name in "abc"]
    batch = [message(good[0]), message(thing(**{column: value})), message(good[1]), message(good[2])]
    decoded = decode(batch, VALIDATORS, READER)
    assert [refused.verdict.reason for refused in decoded.refused] == ["nul_character"]
    assert rows(decoded) == rows(decode([batch[0], *batch[2:]], VALIDATORS))


GOOD = {"words": '["x"]', "route": '[{"x":1,"note":"y"}]', "data": '{"z":1}', "anything": "[[1]]"}


class Folder(Record):
    """Its files may be anything."""

    __record__ = Declaration(type="lab.folder", table="lab.folders", key="name")

    name: str
    files: list[Base64Bytes] | None = None


def test_bytes_that_are_no_text_are_the_columns_affair_also_beside_a_nul() -> None:
    """Looking for the NUL must not raise: that would end the whole batch."""
    validators = Validators(Registry([Folder]))
    raw = message(encode_event("lab.folder", "upsert", 5, b'{"name":"n","files":["/w=="],"more":"\\\\u0000"}'))
    decoded = decode([raw], validators, BlockReader(validators))
    staged = Stage(UpsertPlan(validators.records["lab.folder"])).lines(decoded.events)
    assert (len(decoded.events), staged.rows, [why.column for _, why in staged.culprits]) == (1, 0, ["files"])


def test_a_nul_that_nothing_saw_stays_in_its_own_row() -> None:
    """PostgreSQL refuses it there."""
    values = [["a"], ["b\0", "c"], ["d"]]
    assert json_texts(values) == ['["a"]', r'["b\\u0000","c"]', '["d"]']
    assert escaped(["a\t", "b\0", "c"]) == [r"a\t", "b\0", "c"]
    with pytest.raises(ValueError, match="zip"):
        join_columns([["a", "b"], ["c"]])


def _not_before_begin(value: int, info: ValidationInfo) -> int:
    return max(value, info.data.get("begin") or 0)


class Span(Record):
    """Its end is checked against its begin."""

    __record__ = Declaration(type="lab.span", table="lab.spans", key="name")

    name: str
    begin: int | None = None
    end: Annotated[int, AfterValidator(_not_before_begin)] | None = None


def test_a_value_that_is_read_with_its_neighbours_needs_its_record() -> None:
    validators = Validators(Registry([Span]))
    raw = message(encode_event("lab.span", "upsert", 5, b'{"name":"n","begin":7,"end":3}'))
    decoded = decode([raw], validators, BlockReader(validators))
    assert (decoded.blocks, [event.data["end"] for event in decoded.events]) == ([], [7])


def test_instants_of_a_series_are_told_apart() -> None:
    """However they are written: a key that occurs twice is a repetition."""
    validators = Validators(Registry([Sample]))
    stage = Stage(UpsertPlan(validators.records["lab.sample"]))
    times = ["2026-11-01T00:00:00Z", "2026-11-01T00:00:01Z", "2026-11-01T01:00:00+01:00"]
    series = [json.dumps({"sensor": "s", "at": time, "value": 1.5}).encode() for time in times]
    for chosen, repeated in (([0, 1], 0), ([0, 2], 2)):
        raw = message(*(encode_event("lab.sample", "upsert", 5, series[place]) for place in chosen))
        decoded = decode([raw], validators, BlockReader(validators))
        assert [len(block) for block in decoded.blocks] == [2]
        assert len(list(with_repeated_keys(groups_of(decoded.events, decoded.blocks)))) == repeated
        assert rows(decoded, stage) == rows(decode([raw], validators), stage) or repeated


@given(st.data())
@settings(max_examples=60)
def test_batches_amount_to_the_same_rows(data: st.DataObject) -> None:
    """Of messages with odd values among the usual ones, as they come."""
    value = {name: st.sampled_from(FIT[name]) | st.sampled_from(["null", *VALUES]) for name in FIT}
    events = st.lists(st.fixed_dictionaries({}, optional=value), min_size=1, max_size=3)
    batch, number = [], count()
    for contents in data.draw(st.lists(events, min_size=1, max_size=5)):
        named = [thing(**content | {"name": f'"n{next(number)}"'}) for content in contents]
        batch.append(message(*named))
    fast, slow = decode(batch, VALIDATORS, READER), decode(batch, VALIDATORS)
    assert by_name(fast) == by_name(slow)
    assert Counter(why(fast)) == Counter(why(slow))


def by_name(decoded: Decoded) -> list[list[Any]]:
    """The rows of those events that can be written."""
    culprits = {id(item) for item, _ in STAGE.unwritable(decoded.events)} if decoded.events else set()
    decoded.events = [event for event in decoded.events if id(event) not in culprits]
    return sorted(rows(decoded), key=itemgetter(0))


def why(decoded: Decoded) -> list[str]:
    return [f"{refused.event_id} {refused.verdict}" for refused in decoded.refused]


def test_a_heartbeat_and_an_odd_message_leave_the_others_together() -> None:
    """Read again in parts, and not one by one."""
    reads: list[int] = []

    class Counted(BlockReader):
        def _read(self, opened: Any) -> Any:
            reads.append(len(opened))
            return super()._read(opened)

    usual = [message(thing(name=f'"{number}"')) for number in range(99)]
    reader = Counted(VALIDATORS)
    assert [len(block) for block in decode([*usual, message()], VALIDATORS, reader).blocks] == [99]
    assert reads == [99], "a message without events is not opened"
    odd = message(thing(uid='"urn:uuid:0c7b1a52-6a1e-4f5c-9d55-1f0a6c1d2e01"'))
    assert [len(block) for block in decode([*usual, odd], VALIDATORS, reader).blocks] == [99]
    assert len(reads) < 30


def cloudevent(**change: Any) -> dict[str, Any]:
    head = {"specversion": "1.0", "id": "1", "source": "//foreign", "type": "lab.thing", "time": "2026-11-01T00:00:00.000007Z"}
    return head | {"data": {column.name: None for column in COLUMNS} | {"name": "n"}} | change


def foreign(content: Any, kind: str = "application/cloudevents+json") -> RawMessage:
    return RawMessage(json.dumps(content).encode(), kind, {})


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"id": "ä", "source": "x" * 1000},
        {"time": "2026-11-01T02:30:00+02:00", "subject": "s", "traceparent": None, "datacontenttype": "application/json"},
        {"data": {"name": "n", "whole": 3, "data": {"a": 1.10, "b": "\\"}}},
    ],
)
def test_cloudevents_amount_to_the_same_rows(change: dict[str, Any]) -> None:
    batch = [cloudevent(**change), cloudevent(id="2", data={"name": "m"})]
    for raw in (foreign(cloudevent(**change)), foreign(batch, "application/cloudevents-batch+json; charset=utf-8")):
        fast, slow = decode([raw], VALIDATORS, READER), decode([raw], VALIDATORS)
        assert (fast.events, slow.refused) == ([], [])
        assert rows(fast) == rows(slow)
        assert [(e.producer, e.epoch, e.count) for e in fast.envelopes] == [
            (e.producer, e.epoch, e.count) for e in slow.envelopes
        ]


@pytest.mark.parametrize(
    "change",
    [
        *({"time": "2026-11-01"}, {"time": "1969-12-31T23:59:59Z"}, {"time": None}, {"id": ""}, {"source": "x" * 1001}),
        *(
            {"op": "delete"},
            {"op": "no"},
            {"specversion": "0.3"},
            {"type": "lab.nothing"},
            {"data": [1]},
            {"data": {}},
            {"more": 1},
        ),
    ],
)
def test_odd_cloudevents_are_looked_at_closely(change: dict[str, Any]) -> None:
    raw = foreign(cloudevent(**change))
    fast, slow = decode([raw], VALIDATORS, READER), decode([raw], VALIDATORS)
    assert (fast.blocks, len(fast.events)) == ([], len(slow.events))
    assert [refused.verdict for refused in fast.refused] == [refused.verdict for refused in slow.refused]


def test_cloudevents_leave_their_blocks_too() -> None:
    decoded = decode([foreign(cloudevent())], VALIDATORS, READER)
    dissolve(decoded, VALIDATORS, decoded.envelopes)
    assert (decoded.blocks, [event.key for event in decoded.events]) == ([], [("n",)])


def test_messages_leave_their_blocks_and_are_read_as_events() -> None:
    decoded = decode([message(thing(name='"a"')), message(thing(name='"b"'), thing(name='"c"'))], VALIDATORS, READER)
    first, second = decoded.envelopes
    dissolve(decoded, VALIDATORS, [second, second])
    assert [block.keys for block in decoded.blocks] == [[("a",)]]
    assert [(event.key, event.index) for event in decoded.events] == [(("b",), 0), (("c",), 1)]
    assert decoded.envelopes[0] is first
    assert [envelope.count for envelope in decoded.envelopes] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"headers": None},
        {"content-type": None},
        {"properties": {}},
        {"properties": {"body_encoding": "base64", "priority": 0}},
    ],
)
def test_the_usual_wrapping_comes_off_like_any_other(change: dict[str, Any]) -> None:
    body = base64.b64encode(b"\xff{}").decode()
    wrapper = {"body": body, "content-type": "x", "headers": {"seq": 1}, "properties": {"body_encoding": "base64"}} | change
    found = unwrap(RawMessage(json.dumps(wrapper).encode()))
    assert found is not None
    is_base64 = wrapper["properties"].get("body_encoding") == "base64"
    assert found.body == (b"\xff{}" if is_base64 else body.encode())
    assert (found.content_type, found.headers) == (wrapper["content-type"] or "", wrapper["headers"] or {})
