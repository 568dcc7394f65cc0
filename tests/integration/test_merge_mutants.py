"""
Would the property test see a mistake? Each mutant is the product with one slip in its merge, and must be caught.

A slip replaces one fragment of a source file, which must be there once. The sets of events are always the same, so that a
mutant is caught at every run or at none; the product itself passes all of them.
"""

from __future__ import annotations

import random
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock_worker import store
from penstock_worker.ingest import account, reduce, stage, write
from penstock_worker.store import upsert
from tests.cases import Picker, pick_delivery, pick_events
from tests.lab import FUNCTIONS, Lab, differences
from tests.servers.databases import PostgresServer

#: Numbers of sets of events: of the first 150 those that are the first to catch a slip. Where tests/cases.py picks others, or a
#: new slip is caught by none of them, look for them with range(150) in their place.
SETS = (0, 1, 2, 4, 6, 7, 8, 10, 12, 14, 16, 18, 21, 28, 29, 36, 62, 63, 77, 118)
#: Where deliveries are cut: each event alone, so that the tables merge; here and there; nowhere, so that the batch merges.
ALONE, SOME, TOGETHER = 1, 2, 1000


@dataclass(frozen=True)
class Slip:
    """`fragment` of the source of `module` becomes `instead`; `store` stands for its functions.sql."""

    module: types.ModuleType
    fragment: str
    instead: str


FOLD = {
    "no rank": Slip(reduce, "{int(is_terminal)}", "0"),
    "delete wipes its whole version": Slip(reduce, "event.stamp > deleted", "event.version > deleted[0]"),
    "delete wipes nothing": Slip(reduce, "event.stamp > deleted", "True"),
    "delete of a final type is not final": Slip(reduce, "return [] if record.is_delete_final else", "return"),
    "last of the first": Slip(reduce, "return offered[0] < held[0] if rule is Rule.FIRST else", "return"),
    "NULL is the lowest": Slip(reduce, "return held[1] is None\n", "return offered[1] is None\n"),
    "highest is the lowest": Slip(reduce, "if rule is Rule.MIN else offered[1] > held[1]", "or offered[1] < held[1]"),
    "later one of equal states": Slip(
        reduce, "offered = (ranked if rule is Rule.STATE else plain, value)", "offered = (plain, value)"
    ),
    "stamps dropped": Slip(reduce, "{**bases, **stamps}", "bases"),
    "bases dropped": Slip(reduce, "{**bases, **stamps}", "stamps"),
    "plain with unknown fields": Slip(reduce, "event.data.keys() == event", "event.data.keys() >= event"),
    "highest of the oldest": Slip(reduce, "oldest=min(", "oldest=max("),
    "oldest forgets the deleted": Slip(
        reduce,
        "[*(event.version for event in upserts)",
        "[*(event.version for event in _living(record, upserts, deleted))",
    ),
}
UPSERT = {
    "last to come wins": Slip(
        upsert, '_NEWER = "(excluded._version, excluded._event) > (t._version, t._event)"', '_NEWER = "true"'
    ),
    "event id does not count": Slip(
        upsert,
        '_NEWER = "(excluded._version, excluded._event) > (t._version, t._event)"',
        '_NEWER = "excluded._version > t._version"',
    ),
    ">= for > of the version": Slip(
        upsert,
        '_NEWER = "(excluded._version, excluded._event) > (t._version, t._event)"',
        '_NEWER = "excluded._version >= t._version"',
    ),
    "no rank": Slip(upsert, "THEN '1' ELSE '0' END", "THEN '0' ELSE '0' END"),
    "rank not seen between plain rows": Slip(upsert, "IS DISTINCT FROM ({_NEWER})", "IS DISTINCT FROM ({theirs} > {ours})"),
    "last of the first": Slip(upsert, 'sign = "<" if column.rule is Rule.FIRST else ">"', 'sign = ">"'),
    "NULL never filled": Slip(upsert, ', {theirs} IS NOT NULL)"', ', false)"'),
    "highest is the lowest": Slip(
        upsert, 'function = "LEAST" if column.rule is Rule.MIN else "GREATEST"', 'function = "LEAST"'
    ),
    "highest of the oldest": Slip(upsert, "LEAST(excluded._oldest, t._oldest)", "GREATEST(excluded._oldest, t._oldest)"),
    "oldest not a change": Slip(upsert, "if self.has_oldest:\n            reasons", "if False:\n            reasons"),
    "first delete stays": Slip(upsert, "> (t._deleted_version, t._deleted_event)", "< (t._deleted_version, t._deleted_event)"),
    "delete is not a change": Slip(upsert, '" OR excluded._deleted_version IS NOT NULL" if self.has_deletes else ""', '""'),
    "tombstones rise again": Slip(upsert, "return deleted if self.record.is_delete_final else", "return"),
    "deletes end all types": Slip(upsert, "return deleted if self.record.is_delete_final else", "return deleted if True else"),
    "columns are not wiped": Slip(upsert, 'COLLATE "C", true)', 'COLLATE "C" AND false, false)'),
    "full record stays plain": Slip(upsert, '[("_stamps", "IS NOT NULL"), (', "[("),
    "onward: not newer": Slip(upsert, 'IS NULL", _NEWER]', 'IS NULL"]'),
    "onward: over an end": Slip(upsert, """OR {self._rank('t')} = '0' OR""", "OR true OR"),
    "onward: over what moves with an end": Slip(upsert, "?| ARRAY[{moving}]", "?| ARRAY['none of them']"),
    "onward: unknown fields forgotten": Slip(upsert, '"excluded._extra IS NULL", ', ""),
    "onward: what is not set is emptied": Slip(
        upsert, "THEN CASE WHEN excluded._stamps ? {literal(column.name)} THEN {theirs}", "THEN CASE WHEN true THEN {theirs}"
    ),
    "onward: stamps replaced": Slip(upsert, "{self._stamps('t')} || excluded._stamps ELSE", "excluded._stamps ELSE"),
    "onward: what was first is not kept": Slip(
        upsert, 'has_first:\n            return "false"', "has_first:\n            pass"
    ),
    "unknown fields replaced": Slip(upsert, "excluded._stamps, {self._deleted}) END", "t._stamps, {self._deleted}) END"),
}
FUNCTIONS_SQL = {
    "stamps: last of the first": Slip(store, "CASE WHEN base = '@first' THEN least(l, r) ELSE", "CASE WHEN false THEN l ELSE"),
    "stamps: oldest ones stay": Slip(store, "ELSE greatest(l, r)", "ELSE coalesce(l, r)"),
    "stamps: survive a delete": Slip(
        store, 'FROM won WHERE deleted IS NULL OR stamp > deleted COLLATE "C"\n    ), canonical', "FROM won\n    ), canonical"
    ),
    "stamps: kept below their base": Slip(store, "WHERE base.key IS NULL OR", "WHERE true OR"),
    "stamps: plain rows not seen": Slip(store, "THEN NULL\n        ELSE coalesce", "THEN '{}'\n        ELSE coalesce"),
    "stamps: plain too early": Slip(store, "AND right(stamp, 48) = newest)", ")"),
    "extra: lowest stamp wins": Slip(store, 'ORDER BY key, stamp COLLATE "C" DESC', 'ORDER BY key, stamp COLLATE "C"'),
    "extra: survives a delete": Slip(
        store, 'FROM won WHERE deleted IS NULL OR stamp > deleted COLLATE "C"\n$$', "FROM won\n$$"
    ),
}
ACCOUNT = {
    "ledger: refused ones are stored": Slip(
        account, "update(dict.fromkeys(places, refused.verdict.outcome.value))", "update({})"
    ),
    "ledger: one number off": Slip(account, "seq + places[-1]", "seq + places[-1] + 1"),
    "letters: held ones not kept": Slip(account, "_LETTERED = (Outcome.DEAD, Outcome.HELD)", "_LETTERED = (Outcome.DEAD,)"),
}


@pytest.fixture(scope="module")
def lab(postgres_server: PostgresServer) -> Iterator[Lab]:
    url = postgres_server.create_database()
    lab = Lab(url, connections=1)
    yield lab
    lab.close()
    postgres_server.drop_database(url)


@pytest.fixture
def mutate(lab, monkeypatch):
    """Put a slip into the product for the time of a test."""

    def put(slip):
        source = FUNCTIONS if slip.module is store else Path(slip.module.__file__)
        text = source.read_text()
        assert text.count(slip.fragment) == 1, f"{source.name} holds {slip.fragment!r} {text.count(slip.fragment)} times"
        mutated = text.replace(slip.fragment, slip.instead)
        if slip.module is store:
            lab.execute(mutated)
            return
        namespace = {"__name__": slip.module.__name__}
        exec(compile(mutated, source, "exec"), namespace)
        for user in (stage, write):
            for name in slip.module.__all__:
                if hasattr(user, name):
                    monkeypatch.setattr(user, name, namespace[name])
        lab.renew(1)

    yield put
    monkeypatch.undo()
    lab.execute(FUNCTIONS.read_text())
    lab.renew(1)


def first_difference(lab, cut_one_in):
    """The number of the first set of events that tells the product from the model, and what is different."""
    for number in SETS:
        pick = Picker(random.Random(number).randint)
        events = pick_events(pick, at_least=4, at_most=10)
        found = differences(lab, events, pick_delivery(pick, events, 1, cut_one_in))
        if found:
            return number, found
    return None


@pytest.mark.parametrize("cut_one_in", [ALONE, SOME, TOGETHER])
def test_the_product_passes(lab, cut_one_in):
    assert first_difference(lab, cut_one_in) is None


@pytest.mark.parametrize("name", FOLD)
def test_slip_in_the_fold_is_caught(lab, mutate, name):
    mutate(FOLD[name])

    assert first_difference(lab, TOGETHER) is not None


@pytest.mark.parametrize("name", UPSERT)
def test_slip_in_the_upsert_is_caught(lab, mutate, name):
    mutate(UPSERT[name])

    assert first_difference(lab, ALONE) is not None


@pytest.mark.parametrize("name", FUNCTIONS_SQL)
def test_slip_in_the_functions_is_caught(lab, mutate, name):
    mutate(FUNCTIONS_SQL[name])

    assert first_difference(lab, ALONE) is not None


@pytest.mark.parametrize("name", ACCOUNT)
def test_slip_in_the_account_is_caught(lab, mutate, name):
    mutate(ACCOUNT[name])

    assert first_difference(lab, SOME) is not None
