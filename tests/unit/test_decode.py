"""From messages to events: whatever is in them, each event is read or refused with its reason, and its neighbours are read."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_schemas.registry import load_registry
from penstock_schemas.wire import CONTENT_TYPE, MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, Envelope, encode_event, event_id
from penstock_worker.ingest.decode import Decoded, decode
from penstock_worker.ingest.message import RawMessage, unwrap
from penstock_worker.ingest.outline import split_events
from penstock_worker.ingest.validate import Validators

VALIDATORS = Validators(load_registry())
EPOCH = UUID("0199a000-0000-7a00-9000-00000000000a")
HEADERS = {"producer": "billing", "epoch": str(EPOCH), "seq": 7, "count": 3}


def job(data: bytes, type: str = "scheduler.job", op: Any = "upsert", version: int = 5) -> bytes:
    return encode_event(type, op, version, data)


GOOD = job(b'{"id":"good"}')


def read(body: bytes, content_type: str = CONTENT_TYPE, headers: dict[str, Any] | None = None) -> Decoded:
    return decode([RawMessage(body, content_type, HEADERS if headers is None else headers)], VALIDATORS)


def read_events(*events: bytes) -> Decoded:
    return read(Envelope("billing", EPOCH, 7, events).body())


def verdicts(decoded: Decoded) -> list[tuple[int, int, str, str]]:
    """First number, count, outcome and reason of what was refused."""
    return [(r.envelope.seq + r.first, r.count, r.verdict.outcome.value, r.verdict.reason) for r in decoded.refused]


def test_good_events_are_read_and_numbered() -> None:
    decoded = read_events(GOOD, job(b'{"id":"j","enabled":true}', version=6), job(b'{"id":"k"}', op="delete"))
    assert [(e.key, e.is_delete, e.version, e.id, e.index) for e in decoded.events] == [
        (("good",), False, 5, event_id(EPOCH, 7), 0),
        (("j",), False, 6, event_id(EPOCH, 8), 1),
        (("k",), True, 5, event_id(EPOCH, 9), 2),
    ]
    assert (verdicts(decoded), [(e.producer, e.seq, e.count) for e in decoded.envelopes]) == ([], [("billing", 7, 3)])


BAD_EVENTS = {
    "nul_in_text": (job(b'{"id":"j","name":"a\\u0000b"}'), "dead", "nul_character"),
    "nul_in_key": (job(b'{"id":"\\u0000"}'), "dead", "nul_character"),
    "nul_in_json": (
        job(b'{"name":"p","config":{"a":["\\u0000"]}}', type="scheduler.pipeline"),
        "dead",
        "nul_character",
    ),
    "nul_in_name_of_field": (job(b'{"id":"j","\\u0000":1}'), "dead", "nul_character"),
    "raw_control_character": (job(b'{"id":"a\x00b"}'), "dead", "not_json"),
    "lone_surrogate": (job(b'{"id":"j","name":"\\ud800"}'), "dead", "not_json"),
    "half_a_pair": (job(b'{"id":"j","name":"\\udc00\\ud800"}'), "dead", "not_json"),
    "broken_utf8": (job(b'{"id":"j","name":"\xff"}'), "dead", "not_json"),
    "five_thousand_digits": (job(b'{"id":"j","enabled":' + b"9" * 5_000 + b"}"), "dead", None),
    "five_thousand_digits_unknown_field": (job(b'{"id":"j","more":' + b"9" * 5_000 + b"}"), "dead", "not_json"),
    "too_deep": (job(b'{"id":"j","more":' + b"[" * 300 + b"]" * 300 + b"}"), "dead", "too_deep"),
    "out_of_range": (
        job(b'{"task_id":"t","session_id":"s","tokens":9223372036854775808}', type="translation.task"),
        "dead",
        "invalid",
    ),
    "infinite": (job(b'{"id":"e","job_id":"j","duration":1e999}', type="scheduler.execution"), "dead", "invalid"),
    "nan": (job(b'{"id":"e","job_id":"j","duration":NaN}', type="scheduler.execution"), "dead", None),
    "wrong_type_of_field": (job(b'{"id":"j","enabled":"perhaps"}'), "dead", "invalid"),
    "naive_time": (job(b'{"id":"j","next_run":"2026-11-21T10:00:00"}'), "dead", "invalid"),
    "year_ten_thousand": (job(b'{"id":"j","next_run":"+10000-01-01T00:00:00Z"}'), "dead", "invalid"),
    "no_key": (job(b'{"name":"x"}'), "dead", "invalid"),
    "null_key": (job(b'{"id":null}'), "dead", "invalid"),
    "no_parent": (job(b'{"id":"e"}', type="scheduler.execution"), "dead", "invalid"),
    "unknown_state": (job(b'{"id":"e","job_id":"j","status":"hm"}', type="scheduler.execution"), "dead", "invalid"),
    "unknown_op": (job(b'{"id":"j"}', op="replace"), "dead", "invalid"),
    "delete_of_append_only": (
        job(b'{"id":"0199a000-0000-7a00-9000-00000000000a","timestamp":"2026-11-21T10:00:00Z"}', "guardian.metric", "delete"),
        "dead",
        "invalid",
    ),
    "negative_version": (job(b'{"id":"j"}', version=-1), "dead", "invalid"),
    "version_out_of_range": (job(b'{"id":"j"}', version=2**63), "dead", "invalid"),
    "no_object": (b"17", "dead", "invalid"),
    "no_data": (b'{"type":"scheduler.job","op":"upsert","version":5}', "dead", "invalid"),
    "no_type": (b'{"op":"upsert","version":5,"data":{}}', "dead", "invalid"),
    "unknown_type": (job(b'{"id":"j"}', type="billing.invoice"), "held", "unknown_type"),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_bad_event_is_refused_and_its_neighbours_are_read(name: str) -> None:
    bad, outcome, reason = BAD_EVENTS[name]
    decoded = read_events(GOOD, bad, GOOD)
    assert [event.index for event in decoded.events] == [0, 2]
    ((seq, count, found, why),) = verdicts(decoded)
    assert (seq, count, found) == (8, 1, outcome)
    assert reason in (None, why)
    assert decoded.refused[0].payload == bad


def test_an_escaped_backslash_before_u0000_is_text() -> None:
    decoded = read_events(job(b'{"id":"j","name":"\\\\u0000"}'))
    assert ([event.data["name"] for event in decoded.events], verdicts(decoded)) == (["\\u0000"], [])


def test_numbers_and_texts_at_the_edges_are_read() -> None:
    data = b'{"task_id":"\xf0\x9f\x9a\xb0","session_id":"","tokens":-9223372036854775808,"source_text":"\\ud83d\\udeb0"}'
    (event,) = read_events(job(data, type="translation.task")).events
    assert event.data == {"task_id": "🚰", "session_id": "", "tokens": -(2**63), "source_text": "🚰"}


def test_unknown_fields_are_kept() -> None:
    (event,) = read_events(job(b'{"id":"j","colour":{"red":1}}')).events
    assert event.data == {"id": "j", "colour": {"red": 1}}


def test_an_append_only_record_takes_its_events_id() -> None:
    (event,) = read_events(job(b'{"timestamp":"2026-11-21T10:00:00Z"}', type="guardian.metric")).events
    assert event.data["id"] == UUID(event_id(EPOCH, 7))


WHOLE = Envelope("billing", EPOCH, 7, [GOOD, GOOD, GOOD]).body()
HEAD = {"v": 1, "producer": "billing", "epoch": str(EPOCH), "seq": 7, "events": []}
BAD_MESSAGES = {
    "empty": (b"", "dead", "not_json"),
    "text": (b"hello", "dead", "not_json"),
    "list": (b"[]", "dead", "invalid_envelope"),
    "pickle": (b"\x80\x04\x95\x0b\x00.", "dead", "not_json"),
    "truncated": (WHOLE[:-20], "dead", "not_json"),
    "truncated_in_head": (WHOLE[:20], "dead", "not_json"),
    "no_events": (json.dumps({name: HEAD[name] for name in HEAD if name != "events"}).encode(), "dead", "invalid_envelope"),
    "events_no_list": (json.dumps(HEAD | {"events": {"a": 1}}).encode(), "dead", "invalid_envelope"),
    "no_epoch": (json.dumps({name: HEAD[name] for name in HEAD if name != "epoch"}).encode(), "dead", "invalid_envelope"),
    "negative_seq": (json.dumps(HEAD | {"seq": -1}).encode(), "dead", "invalid_envelope"),
    "huge_seq": (json.dumps(HEAD | {"seq": 2**48}).encode(), "dead", "invalid_envelope"),
    "producer_with_nul": (json.dumps(HEAD | {"producer": "a\x00"}).encode(), "dead", "invalid_envelope"),
    "newer_version": (json.dumps(HEAD | {"v": 2}).encode(), "held", "unknown_envelope_version"),
    "too_large": (WHOLE + b" " * MAX_MESSAGE_BYTES, "dead", "message_too_large"),
    "too_many": (
        json.dumps(HEAD).encode().replace(b"[]", b"[" + b",".join([b"1"] * (MAX_EVENTS_PER_MESSAGE + 1)) + b"]"),
        "dead",
        "too_many_events",
    ),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_message_that_cannot_be_read_ends_as_its_headers_tell(name: str) -> None:
    body, outcome, reason = BAD_MESSAGES[name]
    decoded = read(body)
    assert (decoded.events, verdicts(decoded)) == ([], [(7, 3, outcome, reason)])
    assert decoded.refused[0].payload == body
    assert [(e.producer, e.epoch, e.count) for e in decoded.envelopes] == [("billing", EPOCH, 3)]


@pytest.mark.parametrize(
    "headers",
    [{}, {"epoch": "no uuid", "seq": 0, "count": 1}, {"epoch": str(EPOCH), "seq": -1, "count": 1}, HEADERS | {"count": 10**9}],
)
def test_headers_that_cannot_be_right_are_not_accounted(headers: dict[str, Any]) -> None:
    decoded = read(b"hello", headers=headers)
    assert (verdicts(decoded), decoded.envelopes[0].epoch) == ([(0, 1, "dead", "not_json")], None)


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "application/x-python-serialize"])
def test_the_content_type_does_not_matter_where_the_body_is_an_envelope(content_type: str) -> None:
    assert len(read(WHOLE, content_type).events) == 3


def test_a_bad_message_harms_no_other() -> None:
    bodies = [WHOLE, b"hello", WHOLE]
    decoded = decode([RawMessage(body, CONTENT_TYPE, HEADERS) for body in bodies], VALIDATORS)
    assert (len(decoded.events), len(decoded.refused)) == (6, 1)


# -- kombu's wrapping on Redis -------------------------------------------------------------------------------------------------


def wrapped(**changes: Any) -> bytes:
    wrapper = {
        "body": base64.b64encode(WHOLE).decode(),
        "content-type": CONTENT_TYPE,
        "headers": HEADERS,
        "properties": {"body_encoding": "base64"},
    }
    return json.dumps(wrapper | changes).encode()


def test_kombus_wrapping_is_taken_off() -> None:
    message = unwrap(RawMessage(wrapped()))
    assert message is not None
    assert (message.body, message.content_type, message.headers) == (WHOLE, CONTENT_TYPE, HEADERS)
    plain = unwrap(RawMessage(wrapped(body=WHOLE.decode(), properties={})))
    assert plain is not None
    assert plain.body == WHOLE


@pytest.mark.parametrize("body", ["garbage", "*", "grüße"])
def test_a_body_that_is_no_base64_is_accounted_for_by_its_headers(body: str) -> None:
    decoded = decode([RawMessage(wrapped(body=body))], VALIDATORS)
    assert verdicts(decoded) == [(HEADERS["seq"], HEADERS["count"], "dead", "not_json")]
    assert decoded.refused[0].payload == body.encode()
    assert str(decoded.refused[0].envelope.epoch) == HEADERS["epoch"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"hello", b"[]", b"{}", wrapped(body=None), wrapped(properties=[]), wrapped()[:-9], b"\x80\x04N."],
)
def test_what_kombu_did_not_write_is_dead(raw: bytes) -> None:
    decoded = decode([RawMessage(raw), RawMessage(wrapped())], VALIDATORS)
    assert (verdicts(decoded), len(decoded.events)) == ([(0, 1, "dead", "not_a_message")], 3)


@pytest.mark.parametrize(
    "change", [{"headers": []}, {"headers": "x", "body": ""}, {"content-type": 17}, {"headers": {"seq": []}}]
)
def test_odd_wrappings_never_raise(change: dict[str, Any]) -> None:
    decoded = decode([RawMessage(wrapped(**change)), RawMessage(wrapped())], VALIDATORS)
    assert len(decoded.events) + sum(refused.count for refused in decoded.refused) >= 4
    assert len(decoded.events) >= 3
    assert all(isinstance(refused.envelope.message.id, UUID) for refused in decoded.refused)


# -- CloudEvents ---------------------------------------------------------------------------------------------------------------

CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "17",
    "source": "/billing",
    "type": "scheduler.job",
    "time": "2026-11-21T10:00:00.000005Z",
    "data": {"id": "j", "name": "nightly"},
}
SINGLE, BATCH = "application/cloudevents+json; charset=utf-8", "application/cloudevents-batch+json"


def test_a_cloudevent_is_an_event_whose_id_is_its_source_and_id() -> None:
    body = json.dumps(CLOUD_EVENT).encode()
    first, again = (read(body, SINGLE, {}).events[0] for _ in range(2))
    (other,) = read(json.dumps(CLOUD_EVENT | {"id": "18"}).encode(), SINGLE, {}).events
    assert (first.key, first.data["name"], first.version) == (("j",), "nightly", 1_795_255_200_000_005)
    assert first.id == again.id != other.id
    assert UUID(first.id).version == 8


def test_a_batch_of_cloudevents_holds_deletes_too() -> None:
    events = [CLOUD_EVENT, CLOUD_EVENT | {"id": "18", "op": "delete", "data": {"id": "j"}}]
    decoded = read(json.dumps(events).encode(), BATCH, {})
    assert [event.is_delete for event in decoded.events] == [False, True]
    assert [(e.producer, e.epoch, e.count) for e in decoded.envelopes] == [("/billing", None, 2)]


def test_a_bad_record_in_a_batch_of_cloudevents_harms_no_other() -> None:
    events = [CLOUD_EVENT | {"id": "a", "data": {"id": 17}}, CLOUD_EVENT, CLOUD_EVENT | {"id": "b", "type": "no.such"}]
    decoded = read(json.dumps(events).encode(), BATCH, {})
    assert (len(decoded.events), [v[2:] for v in verdicts(decoded)]) == (1, [("dead", "invalid"), ("held", "unknown_type")])


@pytest.mark.parametrize(
    "change", [{"specversion": "0.3"}, {"time": None}, {"time": "2026-11-21T10:00:00"}, {"data": [1]}, {"source": ""}]
)
def test_what_is_no_cloudevent_is_dead(change: dict[str, Any]) -> None:
    decoded = read(json.dumps(CLOUD_EVENT | change).encode(), SINGLE, {})
    assert [v[1:] for v in verdicts(decoded)] == [(1, "dead", "invalid_cloudevent")]


# -- the outline ---------------------------------------------------------------------------------------------------------------


def test_events_are_cut_out_unread() -> None:
    body = b'{"v":1,"x":{"events":[9]},"events" : [ {"a":[1,{"b":"],}"}]}, 2 ,"\\"]" ],"y":[3]}'
    assert split_events(body) == (
        b'{"v":1,"x":{"events":[9]},"events" : [],"y":[3]}',
        [b'{"a":[1,{"b":"],}"}]}', b"2", b'"\\"]"'],
    )


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"events":1}', b'{"events":[1}', b'{"events":[1]', b'{"events":"[]"}', b'"'])
def test_what_has_no_list_of_events_has_no_outline(body: bytes) -> None:
    assert split_events(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=6), st.dictionaries(st.text(max_size=8).filter(lambda k: k != "events"), JSON, max_size=3))
def test_pieces_are_the_events_one_by_one(events: list[Any], head: dict[str, Any]) -> None:
    for body in (json.dumps(head | {"events": events}), json.dumps({"events": events} | head, indent=1, ensure_ascii=False)):
        parts = split_events(body.encode())
        assert parts is not None
        assert (json.loads(parts[0]), list(map(json.loads, parts[1]))) == (head | {"events": []}, events)


@given(st.data(), st.binary(max_size=40))
def test_no_message_raises(data: st.DataObject, junk: bytes) -> None:
    """Bytes overwritten anywhere: every event that the message then has is read or refused, once."""
    at = data.draw(st.integers(0, len(WHOLE)))
    body = WHOLE[:at] + junk + WHOLE[at + data.draw(st.integers(0, 40)) :]
    decoded = read(body)
    places = [event.index for event in decoded.events] + [
        refused.first + place for refused in decoded.refused for place in range(refused.count)
    ]
    assert sorted(places) == list(range(len(places)))
    assert len(places) == max(envelope.count for envelope in decoded.envelopes) or not decoded.events
