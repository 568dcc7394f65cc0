"""Bodies and values that are no JSON, or more of it than is good for a reader."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bad_input.case import Case, all_bad, all_good, envelope, job, new_epoch, one_bad, pipeline
from tests.bad_input.json_suite import ACCEPTED, REFUSED, UNDEFINED

__all__ = ["deep", "duplicate_keys", "suite_as_body", "suite_as_value", "trailing", "truncated"]

_NO_TEXT = {"object_escaped_null_in_key", "string_null_escape"}
#: Brackets that are not closed, or closed too often, break the envelope around them and all the events in it.
_UNBALANCED = {
    *("array_extra_close", "array_incomplete", "array_incomplete_invalid_value"),
    *("array_newlines_unclosed", "array_unclosed", "array_unclosed_trailing_comma", "array_unclosed_with_new_lines"),
    *("array_unclosed_with_object_inside", "object_missing_value", "object_no-colon", "object_unterminated-value"),
    *("string_1_surrogate_then_escape", "string_escaped_backslash_bad", "string_incomplete_escape"),
    *("string_single_doublequote", "string_start_escape_unclosed", "structure_100000_opening_arrays"),
    *("structure_array_with_extra_array_close", "structure_array_with_unclosed_string", "structure_close_unopened_array"),
    *("structure_comma_instead_of_closing_brace", "structure_end_array", "structure_lone-open-bracket"),
    *("structure_object_followed_by_closing_object", "structure_object_unclosed_no_value"),
    *("structure_open_array_apostrophe", "structure_open_array_comma", "structure_open_array_object"),
    *("structure_open_array_open_object", "structure_open_array_open_string", "structure_open_array_string"),
    *("structure_open_object", "structure_open_object_comma", "structure_open_object_open_array"),
    *("structure_open_object_open_string", "structure_open_object_string_with_apostrophes", "structure_open_open"),
    *("structure_unclosed_array", "structure_unclosed_array_partial_null", "structure_unclosed_array_unfinished_false"),
    *("structure_unclosed_array_unfinished_true", "structure_unclosed_object"),
    "object_bracket_key",
}
#: Python's word for a number that JSON does not have; its readers take it.
_NOT_FINITE = {"number_NaN", "number_infinity", "number_minus_infinity"}
_TOO_LARGE = {
    "number_huge_exp",
    "number_neg_int_huge_exp",
    "number_pos_double_huge_exp",
    "number_real_neg_overflow",
    "number_real_pos_overflow",
}
_SMALL_OR_LONG = {
    "number_double_huge_neg_exp",
    "number_real_underflow",
    "number_too_big_neg_int",
    "number_too_big_pos_int",
    "number_very_big_negative_int",
}


def suite_as_body() -> Iterator[Case]:
    """In place of the envelope."""
    for name, text in ACCEPTED.items():
        yield all_bad(f"body-y-{name}", text, "invalid_envelope")
    for name, text in REFUSED.items():
        reason = "invalid_envelope" if name in _NOT_FINITE else "too_deep" if len(text) > 9_999 else "not_json"
        yield all_bad(f"body-n-{name}", text, reason)
    for name, text in UNDEFINED.items():
        reason = "invalid_envelope" if name in _TOO_LARGE | _SMALL_OR_LONG else "not_json"
        yield all_bad(f"body-i-{name}", text, "too_deep" if "nested" in name else reason)


def suite_as_value() -> Iterator[Case]:
    """In place of a value, with good events before and after."""
    for name, text in ACCEPTED.items():
        bad = pipeline(f"value-y-{name}", text)
        yield one_bad(f"value-y-{name}", bad, "dead", "nul_character") if name in _NO_TEXT else all_good(name, bad)
    for name, text in REFUSED.items():
        bad = pipeline(f"value-n-{name}", text)
        if name in _UNBALANCED:
            epoch = new_epoch()
            body = envelope(job(f"{name}-before"), bad, job(f"{name}-after"), epoch=epoch)
            yield all_bad(f"value-n-{name}", body, "too_deep" if len(text) > 9_999 else "not_json")
        else:
            yield one_bad(f"value-n-{name}", bad, "dead", "invalid" if name in _NOT_FINITE else "not_json")
    for name, text in UNDEFINED.items():
        bad = pipeline(f"value-i-{name}", text)
        if name in _SMALL_OR_LONG:
            yield all_good(f"value-i-{name}", bad)
        else:
            reason = "invalid" if name in _TOO_LARGE else "too_deep" if "nested" in name else "not_json"
            yield one_bad(f"value-i-{name}", bad, "dead", reason)


def deep() -> Iterator[Case]:
    """Lists in lists and objects in objects."""
    for depth in (10, 100):
        yield all_good(f"lists-{depth}", pipeline(f"lists-{depth}", b"[" * depth + b"]" * depth))
        yield all_good(f"objects-{depth}", pipeline(f"objects-{depth}", b'{"a":' * depth + b"1" + b"}" * depth))
    for depth in (1_000, 10_000, 1_000_000):
        lists, objects = b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth
        yield one_bad(f"lists-{depth}", pipeline(f"lists-{depth}", lists), "dead", "too_deep")
        yield one_bad(f"objects-{depth}", pipeline(f"objects-{depth}", objects), "dead", "too_deep")
        yield all_bad(f"body-of-lists-{depth}", lists, "too_deep")
        yield all_bad(f"body-never-closed-{depth}", b"[" * depth, "too_deep")
        yield all_bad(f"head-{depth}", envelope(job("j"), epoch=new_epoch(), reply_to=lists), "too_deep")


def truncated() -> Iterator[Case]:
    """A good message that ends after each of its bytes."""
    whole = envelope(job("truncated-a"), job("truncated-b", name="ä\n"), epoch=new_epoch())
    for size in range(len(whole)):
        yield all_bad(f"truncated-{size}", whole[:size], "not_json")


def trailing() -> Iterator[Case]:
    """More than one document, and what does not belong to any."""
    whole = envelope(job("trailing"), epoch=new_epoch())
    for name, more in {"text": b"x", "brace": b"}", "nul": b"\0", "comma": b",", "twice": whole, "line": b"\n" + whole}.items():
        yield all_bad(f"trailing-{name}", whole + more, "not_json")
    for name, more in {"brace": b"{", "nul": b"\0", "text": b"x", "record_separator": b"\x1e"}.items():
        yield all_bad(f"leading-{name}", more + whole, "not_json")
    epoch = new_epoch()
    spaced = b" \r\n\t" + envelope(job("trailing-blank"), epoch=epoch) + b" \r\n\t"
    yield Case("blanks_around", spaced, {"stored": 1})


def duplicate_keys() -> Iterator[Case]:
    """The last one counts, as for most readers of JSON."""
    yield all_good("key-of-data-twice", pipeline("twice", b'1,"v":2},"config":{"v":3'))
    yield all_good("id-twice", job("unused").replace(b'"id":', b'"id":null,"id":'))
    epoch = new_epoch()
    twice = envelope(job("events-b"), epoch=epoch, seq=b'9,"seq":0,"events":[1,2,3]')
    yield Case("events-twice", twice, {"stored": 1})
    yield one_bad("type-twice", job("type-twice").replace(b'"op"', b'"type":"no.such","op"'), "held", "unknown_type")
    yield all_bad(
        "v-twice", envelope(job("v-twice"), epoch=new_epoch(), v=b'1,"v":2'), "unknown_envelope_version", state="held"
    )
