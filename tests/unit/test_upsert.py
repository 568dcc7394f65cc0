"""The generated SQL, where no database at hand can show what it prevents; all else is in the merge's property test."""

from __future__ import annotations

from penstock_worker.store.upsert import UpsertPlan
from tests.records import Run


def test_lowest_and_highest_text_go_by_bytes_in_any_language():
    """A batch is folded in Python, where 'Beta' < 'alpha'; a database with a language's collation says the opposite."""
    upsert = UpsertPlan(Run.__record_type__).upsert

    assert 'GREATEST(t."last_word" COLLATE "C", excluded."last_word")' in upsert
    assert 'coalesce(excluded."last_word" > t."last_word" COLLATE "C", excluded."last_word" IS NOT NULL)' in upsert
    assert 'LEAST(t."lowest", excluded."lowest")' in upsert
