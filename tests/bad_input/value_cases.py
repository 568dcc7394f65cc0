"""Values of columns: texts, numbers and times at and over their limits."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from penstock_schemas.wire import MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES
from penstock_worker.store.copy_text import MAX_INDEXED_BYTES
from tests.bad_input.case import VERSION, Case, all_bad, all_good, envelope, event, job, new_epoch, one_bad, pipeline
from tests.bad_input.strings import LONE_SURROGATES, NAUGHTY, WITH_NUL

__all__ = ["event_fields", "huge", "numbers", "texts", "times"]


def texts() -> Iterator[Case]:
    """As a value, a key, in JSON, as the name of an unknown field, of a type and of a producer."""
    for name, text in NAUGHTY.items():
        raw = json.dumps(text, ensure_ascii=False).encode()
        escaped = json.dumps(text).encode()
        yield all_good(
            f"text-{name}",
            event(b'{"id":"text-%b","name":%b}' % (name.encode(), raw)),
            event(b'{"id":"escaped-%b","name":%b}' % (name.encode(), escaped)),
            pipeline(f"text-{name}", b"{%b:%b}" % (raw, raw)),
            event(b'{"name":"unknown-%b",%b:1}' % (name.encode(), json.dumps(f"?{text}").encode()), "scheduler.pipeline"),
        )
        yield all_good(f"key-{name}", event(b'{"name":%b}' % json.dumps(f"key {text}").encode(), "scheduler.pipeline"))
        yield one_bad(f"type-{name}", event(b"{}").replace(b'"scheduler.job"', raw), "held", "unknown_type")
        producer = all_bad if any(character < " " for character in text) or len(text) > 200 else _named
        yield producer(
            f"producer-{name}", envelope(job(f"producer-{name}"), epoch=new_epoch(), producer=raw), "invalid_envelope"
        )
    for name, text in WITH_NUL.items():
        escaped = json.dumps(text).encode()
        yield one_bad(f"text-{name}", event(b'{"id":"j","name":%b}' % escaped), "dead", "nul_character")
        yield one_bad(f"key-{name}", event(b'{"id":%b}' % escaped), "dead", "nul_character")
        yield one_bad(f"json-{name}", pipeline("p", b'[{"a":%b}]' % escaped), "dead", "nul_character")
        yield one_bad(f"json-key-{name}", pipeline("p", b"{%b:1}" % escaped), "dead", "nul_character")
        yield one_bad(f"field-{name}", event(b'{"id":"j",%b:1}' % escaped), "dead", "nul_character")
        yield one_bad(f"type-{name}", event(b"{}").replace(b'"scheduler.job"', escaped), "held", "unknown_type")
    for name, text in LONE_SURROGATES.items():
        quoted = b'"%b"' % text.encode()
        yield one_bad(f"surrogate-{name}", event(b'{"id":"j","name":%b}' % quoted), "dead", "not_json")
        yield one_bad(f"surrogate-key-{name}", event(b'{"id":%b}' % quoted), "dead", "not_json")
        yield one_bad(f"surrogate-json-{name}", pipeline("p", b"{%b:%b}" % (quoted, quoted)), "dead", "not_json")
        yield one_bad(f"surrogate-type-{name}", event(b"{}").replace(b'"scheduler.job"', quoted), "dead", "not_json")


def _named(name: str, body: bytes, _reason: str) -> Case:
    return Case(name, body, {"stored": 1})


_WHOLE_GOOD = (
    "0",
    "-0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "1.0",
    "-0.0",
    "1e3",
    "1E+2",
    '"12"',
    "null",
)
_WHOLE_BAD = (
    *("9223372036854775808", "-9223372036854775809", "1" + "0" * 30, "1.5", "1e-1", "1e400", "-1e400", '"1.5"', '"x"', '""'),
    *('"NaN"', '"1_0x"', "[]", "{}", "[1]", "1" * 4_000, '"\u0663.\u0665"', '"0x10"'),
)
_DOUBLE_GOOD = (
    *("0", "-0.0", "1.7976931348623157e308", "-1.7976931348623157e308", "5e-324", "1e-400", "123456789012345678901234567890"),
    *("0.1", '"1.5"', "null"),
)
_DOUBLE_BAD = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 400, '"NaN"', '"Infinity"', '"-inf"', '"x"', "[]", "{}")
_JSON_GOOD = ("0", "-0", "-0.0", "1" * 4_000, "1.7976931348623157e308", "5e-324", "1e-400", "0.1e1", "9007199254740993")
_NOT_FINITE = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e1000000", "[[1e309]]", '{"a":{"b":[1,-1e999]}}')
_NO_NUMBERS = ("nan", "+Infinity", "+1", ".5", "5.", "01", "0x1", "1_000", "1,5", "--1", "1e", "\u0661")


def numbers() -> Iterator[Case]:
    """The ends of int64 and of double precision, and what only looks like a number."""
    for number, text in enumerate(_WHOLE_GOOD):
        yield all_good(f"whole-{text}", _task(f"whole-{number}", b'"tokens":%b' % text.encode()))
    for text in _WHOLE_BAD:
        yield one_bad(f"whole-{text[:30]}", _task("bad", b'"tokens":%b' % text.encode()), "dead", "invalid")
    for number, text in enumerate(_DOUBLE_GOOD):
        yield all_good(f"double-{text}", _execution(f"double-{number}", b'"duration":%b' % text.encode()))
    for text in _DOUBLE_BAD:
        yield one_bad(f"double-{text[:30]}", _execution("bad", b'"duration":%b' % text.encode()), "dead", "invalid")
    for text in _JSON_GOOD:
        yield all_good(f"json-{text[:30]}", pipeline(f"json-{text[:30]}", text.encode()))
    for text in _NOT_FINITE:
        yield one_bad(f"json-{text[:30]}", pipeline("bad", text.encode()), "dead", "invalid")
        yield one_bad(f"unknown-{text[:30]}", event(b'{"id":"bad","unknown":%b}' % text.encode()), "dead", "invalid")
    for text in _NO_NUMBERS:
        yield one_bad(f"token-{text}", pipeline("bad", text.encode()), "dead", "not_json")
        yield one_bad(f"token-in-column-{text}", _task("bad", b'"tokens":%b' % text.encode()), "dead", "not_json")
    yield one_bad("a-million-digits", pipeline("bad", b"1" * 1_000_000), "dead", "not_json")
    for text in ("true", "false", "0", "1", '"yes"', '"off"', "null"):
        yield all_good(f"flag-{text}", event(b'{"id":%b,"enabled":%b}' % (json.dumps(f"flag-{text}").encode(), text.encode())))
    for text in ("2", "-1", "0.5", '"maybe"', "[]", '"\\ud800"'):
        reason = "not_json" if "ud800" in text else "invalid"
        yield one_bad(f"flag-{text}", event(b'{"id":"j","enabled":%b}' % text.encode()), "dead", reason)


def _task(key: str, more: bytes) -> bytes:
    return event(b'{"task_id":"%b","session_id":"numbers",%b}' % (key.encode(), more), "translation.task")


def _execution(key: str, more: bytes) -> bytes:
    return event(b'{"id":"%b","job_id":"numbers",%b}' % (key.encode(), more), "scheduler.execution")


_TIMES_GOOD = (
    *("2026-11-01T00:00:00Z", "2026-11-01T00:00:00+14:00", "2026-11-01T00:00:00-12:00", "2026-11-01 00:00:00.123456Z"),
    *("2026-11-01T00:00:00+23:59", "0001-01-01T00:00:00Z", "0001-01-02T00:00:00+14:00", "9999-12-31T23:59:59.999999Z"),
    *("1582-10-10T00:00:00Z", "1970-01-01T00:00:00Z", "2000-02-29T12:00:00Z", "2026-11-01t00:00:00z"),
)
_TIMES_BAD = (
    *("2026-11-01T00:00:00", "2026-11-01", "2026-11-01T00:00:00+24:00", "2026-11-01T00:00:00+25:00", "2026-13-01T00:00:00Z"),
    *("2026-11-31T00:00:00Z", "2026-02-29T00:00:00Z", "2026-11-01T24:00:00Z", "2026-11-01T23:60:00Z", "2026-06-30T23:59:60Z"),
    *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-0044-03-15T00:00:00Z", "294277-01-01T00:00:00Z", "infinity", "now"),
    *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2026-11-01T00:00:00 Europe/Berlin", "", "x", "\u0662026"),
)


def times() -> Iterator[Case]:
    """The ends of the calendar, in Python and in UTC, zones, leap seconds; of append-only types also what is kept."""
    for text in _TIMES_GOOD:
        yield all_good(f"time-{text}", event(b'{"id":"time-%b","next_run":"%b"}' % (text.encode(), text.encode())))
    for text in _TIMES_BAD:
        data = b'{"id":"bad","next_run":%b}' % json.dumps(text).encode()
        yield one_bad(f"time-{text}", event(data), "dead", "invalid")
    for number in (0, 1_795_222_596, 253_402_300_800):
        yield all_good(f"time-{number}", event(b'{"id":"time-%d","next_run":%d}' % (number, number)))
    for text in ("1e300", "true", "[]", "{}", "99999999999999999999"):
        yield one_bad(f"time-{text}", event(b'{"id":"bad","next_run":%b}' % text.encode()), "dead", "invalid")
    metrics = {"0001-01-01T00:00:00Z": "expired", "1999-12-31T23:59:60.5Z": "dead", "2001-01-01T00:00:00Z": "expired"}
    for text, state in metrics.items():
        epoch = new_epoch()
        body = envelope(event(b'{"timestamp":"%b"}' % text.encode(), "guardian.metric"), epoch=epoch)
        yield Case(f"metric-{text}", body, {state: 1}, {("dead", "invalid"): 1} if state == "dead" else {})
    yield one_bad("metric-9999", event(b'{"timestamp":"9999-12-31T23:59:59Z"}', "guardian.metric"), "held", "no_partition_yet")
    yield one_bad(
        "metric-utc", event(b'{"timestamp":"9999-12-31T23:59:59-01:00"}', "guardian.metric"), "held", "no_partition_yet"
    )
    yield one_bad("metric-no-time", event(b"{}", "guardian.metric"), "dead", "invalid")


def event_fields() -> Iterator[Case]:
    """What an event lacks or has of a wrong type."""
    good = job("fields")
    for name, old, new in (
        ("no-type", b'"type":"scheduler.job",', b""),
        ("null-type", b'"scheduler.job"', b"null"),
        ("number-type", b'"scheduler.job"', b"7"),
        ("list-type", b'"scheduler.job"', b'["scheduler.job"]'),
        ("no-op", b'"op":"upsert",', b""),
        ("null-op", b'"upsert"', b"null"),
        ("unknown-op", b'"upsert"', b'"truncate"'),
        ("op-in-capitals", b'"upsert"', b'"UPSERT"'),
        ("no-version", b'"version":%d,' % VERSION, b""),
        ("null-version", b"%d" % VERSION, b"null"),
        ("negative-version", b"%d" % VERSION, b"-1"),
        ("fractional-version", b"%d" % VERSION, b"1.5"),
        ("infinite-version", b"%d" % VERSION, b"1e400"),
        ("version-over-int64", b"%d" % VERSION, b"9223372036854775808"),
        ("version-of-words", b"%d" % VERSION, b'"today"'),
        ("no-data", b',"data":{"id": "fields"}', b""),
        ("null-data", b'{"id": "fields"}', b"null"),
        ("list-data", b'{"id": "fields"}', b"[]"),
        ("text-data", b'{"id": "fields"}', b'"fields"'),
        ("no-key", b'"id": "fields"', b""),
        ("null-key", b'"fields"', b"null"),
        ("number-key", b'"fields"', b"7"),
        ("list-key", b'"fields"', b'["fields"]'),
        ("flag-key", b'"fields"', b"true"),
    ):
        assert old in good, name
        yield one_bad(name, good.replace(old, new), "dead", "invalid")
    # What a letter says of an event comes from the bad event, and must fit the letter's columns.
    for name in ("version", "type", "op"):
        for value in (b"true", b"-1", b"1.5", b"[]", b"9223372036854775808", b'{"a":1}'):
            odd = b'{"type":"scheduler.job","op":"upsert","%b":%b,"data":7}' % (name.encode(), value)
            yield one_bad(f"odd-{name}-{value.decode()}", odd, "dead", "invalid")
    for name, text in {
        "null": b"null",
        "number": b"7",
        "text": b'"x"',
        "list": b"[]",
        "flag": b"true",
        "object": b"{}",
    }.items():
        yield one_bad(f"event-is-{name}", text, "dead", "invalid")
    for name in ("scheduler.jobs", "Scheduler.Job", "scheduler.job ", "no.such", ""):
        yield one_bad(f"type-{name}", good.replace(b"scheduler.job", name.encode()), "held", "unknown_type")
    yield one_bad(
        "delete-of-append-only", event(b'{"timestamp":"2026-11-01T00:00:00Z"}', "guardian.metric", "delete"), "dead", "invalid"
    )
    yield one_bad("from-the-future", job("future").replace(b"%d" % VERSION, b"9223372036854775807"), "held", "clock_ahead")
    yield one_bad("no-parent", event(b'{"task_id":"t"}', "translation.task"), "dead", "invalid")
    yield one_bad("no-such-state", event(b'{"session_id":"s","status":"lost"}', "translation.session"), "dead", "invalid")
    yield one_bad("metadata-is-text", event(b'{"session_id":"s","metadata":"{}"}', "translation.session"), "dead", "invalid")


def huge() -> Iterator[Case]:
    """At and over the limits of bytes and numbers of events."""
    chance = random.Random(54_000)
    fits, too_long = (chance.randbytes(size // 2).hex() for size in (MAX_INDEXED_BYTES, 20_000))
    yield all_good("longest-key", job(fits))
    yield one_bad("key-too-long-for-its-index", job(too_long), "dead", "invalid")
    yield one_bad("key-one-byte-too-long", job(f"{fits}x"), "dead", "invalid")
    yield one_bad("key-of-four-byte-characters", job("\U0001f4a9" * 651), "dead", "invalid")
    yield one_bad("parents-key-too-long", _task("t", b'"tokens":1').replace(b"numbers", too_long.encode()), "dead", "invalid")
    indexed = event(b'{"session_id":"s","user_id":"%b"}' % too_long.encode(), "translation.session")
    yield one_bad("indexed-text-too-long", indexed, "dead", "invalid")
    yield all_good("long-text", job("long-text", name="x" * 2_000_000))
    yield all_good("long-name-of-a-field", event(b'{"id":"long-name","%b":1}' % (b"x" * 200_000)))
    yield all_good("many-unknown-fields", event(json.dumps({"id": "many"} | {f"f{n}": n for n in range(5_000)}).encode()))
    yield one_bad("long-type", event(b"{}", "x" * 500_000), "held", "unknown_type")
    events = [job("same")] * (MAX_EVENTS_PER_MESSAGE + 1)
    yield all_bad("too-many-events", envelope(*events, epoch=new_epoch()), "too_many_events", count=1)
    large = envelope(job("large", name="x" * MAX_MESSAGE_BYTES), epoch=new_epoch())
    yield all_bad("too-large", large, "message_too_large", count=1)
    yield all_bad("too-large-and-no-json", b"[" * (MAX_MESSAGE_BYTES + 1), "message_too_large", count=1)
