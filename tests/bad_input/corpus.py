"""The handwritten corpus, by what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.bad_input import foreign_cases, header_cases, json_cases, message_cases, value_cases
from tests.bad_input.case import Case

__all__ = ["CLASSES", "ON_REDIS_ONLY"]

CLASSES: dict[str, Callable[[], Iterable[Case]]] = {
    "JSONTestSuite as the body": json_cases.suite_as_body,
    "JSONTestSuite as a value": json_cases.suite_as_value,
    "deep nesting": json_cases.deep,
    "truncated at every byte": json_cases.truncated,
    "trailing garbage": json_cases.trailing,
    "duplicate keys": json_cases.duplicate_keys,
    "texts": value_cases.texts,
    "numbers": value_cases.numbers,
    "times": value_cases.times,
    "fields of events": value_cases.event_fields,
    "huge": value_cases.huge,
    "compressed": message_cases.compressed,
    "content types": message_cases.content_types,
    "encodings": message_cases.encodings,
    "other formats": message_cases.other_formats,
    "heads of envelopes": message_cases.heads,
    "headers": header_cases.headers,
    "wrapping": header_cases.wrappers,
    "CloudEvents": foreign_cases.cloudevents,
}
ON_REDIS_ONLY = {"wrapping"}
