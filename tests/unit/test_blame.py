"""What an error becomes for a person."""

from __future__ import annotations

import pytest

from penstock_worker.ingest.blame import squeezed


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\n  lines\t", "two lines"),
        ("a NUL \x00 and half a pair \ud800", r"a NUL \u0000 and half a pair \ud800"),
        # What is made visible is longer, and counts.
        ("\x00" * 400, r"\u0000" * 83 + r"\u"),
        ("x" * 499 + " y", "x" * 499),
    ],
)
def test_a_line_is_short_and_can_be_stored_and_shown(text: str, line: str) -> None:
    assert squeezed(text) == line
