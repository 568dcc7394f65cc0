"""The reference model's own promises, and that it stays what it is: short and independent."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import model
from tests.cases import LATEST, TYPES, Picker, pick_events

MODEL = Path(model.__file__)
EPOCH = "0199a000-0000-7a00-9000-00000000000a"
IDS = ["0199a000-0000-8a00-9000-000000000000", "0199a000-0000-8a00-9000-000000000001"]
STAMPS = ["000000000000000a0199a00000008a009000000000000000", "00000000000000050199a00000008a009000000000000001"]


def test_model_is_under_sixty_lines_and_imports_nothing_of_penstock():
    with MODEL.open("rb") as source:
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.STRING)
        lines = {t.start[0] for t in tokenize.tokenize(source.readline) if t.type not in skipped and t.string}
    imports = [node for node in ast.walk(ast.parse(MODEL.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]

    assert len(lines - {0}) < 60
    assert [ast.unparse(node) for node in imports] == ["import json"]


@settings(max_examples=200)
@given(st.data())
def test_order_and_duplicates_change_nothing(data):
    pick = Picker(lambda low, high: data.draw(st.integers(low, high)))
    events = pick_events(pick)

    again = pick.shuffled([*events, *pick.some(events)])

    assert model.fold(TYPES, again, LATEST) == model.fold(TYPES, events, LATEST)


def test_a_full_record_needs_no_stamps():
    full = event(0, 10, tenant="a", number=1, text="x", flag=None)

    assert rows_of("lab.pair", full) == {("a", 1): {"tenant": "a", "number": 1, "text": "x", "_version": 10, "_event": IDS[0]}}


def test_a_newer_partial_record_stamps_what_it_sets():
    rows = rows_of(
        "lab.pair", event(1, 5, tenant="a", number=1, text="x", flag=True), event(0, 10, tenant="a", number=1, text=None)
    )

    assert rows == {
        ("a", 1): {
            "tenant": "a",
            "number": 1,
            "flag": True,
            "_version": 10,
            "_event": IDS[0],
            "_stamps": {"@full": STAMPS[1], "text": STAMPS[0]},
        }
    }


def test_a_terminal_state_stays_and_a_final_delete_leaves_the_tombstone():
    done = event(1, 5, site_id="s", status="done")
    newer = event(0, 10, site_id="s", name="n", since=None, most=3, status="open", error=None)
    delete = {**event(0, 3, site_id="s"), "op": "delete"}

    assert rows_of("lab.site", done, newer)["s",]["status"] == "done"
    assert rows_of("lab.site", done, newer)["s",]["_stamps"] == {
        "@full": STAMPS[0],
        "@state": f"0{STAMPS[0]}",
        "status": f"1{STAMPS[1]}",
    }
    assert rows_of("lab.site", done, delete) == {("s",): {"site_id": "s", "_deleted_version": 3, "_deleted_event": IDS[0]}}


def test_a_row_of_newest_columns_starts_again_after_a_delete():
    old = event(0, 1, tenant="a", number=1, text="x", flag=True)
    delete = {**event(1, 5, tenant="a", number=1), "op": "delete"}
    new = event(0, 10, tenant="a", number=1)

    assert rows_of("lab.pair", old, delete, new) == {
        ("a", 1): {
            "tenant": "a",
            "number": 1,
            "_version": 10,
            "_event": IDS[0],
            "_stamps": {},
            "_deleted_version": 5,
            "_deleted_event": IDS[1],
        }
    }


def test_placeholders_of_placeholders():
    remark = {**event(0, 10, remark_id=IDS[1], note=7, text="t"), "type": "lab.remark"}
    note = {**event(1, 5, number=7, site_id="s"), "type": "lab.note"}

    assert model.fold(TYPES, [remark], LATEST)[0]["lab.note"] == {(7,): {"number": 7}}
    assert model.fold(TYPES, [remark, note], LATEST)[0]["lab.site"] == {("s",): {"site_id": "s"}}


def event(seq, version, **data):
    return {"epoch": EPOCH, "seq": seq, "type": None, "op": "upsert", "version": version, "data": data}


def rows_of(name, *events):
    return model.fold(TYPES, [{**one, "type": name} for one in events], LATEST)[0][name]
