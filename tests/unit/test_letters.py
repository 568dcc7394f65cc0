"""Patches and payloads of dead letters: JSON that stays as it was written, and text that no terminal obeys."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from inspect import signature
from typing import Any

import pytest
import typer

from penstock_worker.cli.dead_letters.options import parse_moment, with_filters
from penstock_worker.letters.export import pretty, visible
from penstock_worker.letters.patch import dump_exact, load_exact, merge_patch
from penstock_worker.store.dead_letters import Letter


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_are_those_of_the_standard(target: Any, patch: Any, merged: Any) -> None:
    """RFC 7396, appendix A."""
    assert merge_patch(target, patch) == merged


def test_what_is_patched_is_left_as_it_was() -> None:
    target = {"a": {"b": 1}}
    merge_patch(target, {"a": {"b": 2, "c": 3}})
    assert target == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1.000000000000000000001, "b": 9007199254740993, "c": 1E400, "d": -0.0, "e": 1.10}',
        '{"a": %s}' % ("9" * 5_000),
        '["\\ud800", "\\u0000", "\\"", "\\u20ac"]',
        '{"a": NaN, "b": -Infinity}',
        '{"": {}, "x": [], "y": [null, true, false]}',
    ],
)
def test_json_is_written_as_it_was_read(text: str) -> None:
    assert dump_exact(load_exact(text)) == text


def test_json_is_indented_as_python_does_it() -> None:
    value = {"a": [1, {"b": []}], "c": {}, "d": "é"}
    assert dump_exact(load_exact(json.dumps(value)), 2, is_ascii=False) == json.dumps(value, indent=2, ensure_ascii=False)


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, "{'a': 1}"])
def test_what_is_not_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_exact(text)


def test_nothing_that_controls_a_terminal_is_printed() -> None:
    """An escape sequence, marks that turn the line around, a NUL, a lone surrogate, a tag character."""
    assert visible("a\x1b[2J\u202eb\r\x00\u2066\u200b\n\ud800\U000e0041\x9b") == (
        "a\\u001b[2J\\u202eb\\u000d\\u0000\\u2066\\u200b\n\\ud800\\U000e0041\\u009b"
    )
    assert visible("Grüße, 世界 😀") == "Grüße, 世界 😀"


def test_payloads_are_shown_as_what_they_are() -> None:
    assert pretty(b'{"name":"\\u202e\\u001b","n":1.10}') == '{\n  "name": "\\u202e\\u001b",\n  "n": 1.10\n}'
    assert pretty(b"{broken\x1b") == "{broken\\u001b"
    assert pretty(b"\xff\x00\x1b\x41") == "ff00 1b41"
    assert pretty(b"[" * 100_000) == "[" * 100_000


def test_headers_of_any_kind_can_be_stored() -> None:
    headers = {"epoch": "e", "seq": 7, "huge": 2**70, "at": datetime(2026, 1, 1, tzinfo=UTC), "n\0": "\ud800", "ok": True}
    letter = Letter(None, "dead", "r", "", b"", headers=headers)  # type: ignore[arg-type]  # the id is not looked at
    assert letter.row()["headers"].obj == {
        "epoch": "e",
        "seq": 7,
        "huge": str(2**70),
        "at": "datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)",
        "n\\u0000": "\\ud800",
        "ok": True,
    }
    many = Letter(None, "dead", "r", "", b"", headers={str(n): "x" * 9_999 for n in range(999)})  # type: ignore[arg-type]
    assert len(json.dumps(many.row()["headers"].obj)) < 200_000


def test_moments_have_a_zone_or_are_so_long_ago() -> None:
    assert parse_moment("2026-11-21T12:00:00Z") == datetime(2026, 11, 21, 12, tzinfo=UTC)
    for text, seconds in [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("7d", 604_800)]:
        assert abs((datetime.now(UTC) - parse_moment(text)).total_seconds() - seconds) < 60
    for text in ("yesterday", "2026-11-21T12:00:00", "2 h", "", "999999d"):
        with pytest.raises(typer.BadParameter):
            parse_moment(text)


def test_every_command_takes_the_same_filters() -> None:
    def command(meant: Any, *, flag: bool = False) -> None:
        seen.append((meant.reason, meant.ids, flag))

    seen: list[Any] = []
    run = with_filters(command)
    assert list(signature(run).parameters) == [
        "flag", "state", "type", "reason", "producer", "fingerprint", "since", "until", "ids",
    ]  # fmt: skip
    nothing = dict.fromkeys(("state", "type", "producer", "fingerprint", "since", "until", "ids"))
    run(flag=True, reason="invalid", **nothing)
    assert seen == [("invalid", (), True)]
