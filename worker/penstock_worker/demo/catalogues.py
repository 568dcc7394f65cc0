"""
The message catalogues inside the Django package, as sessions and tasks of a translation service.

Each `.po` file is a `TranslationSession`, each of its messages a `TranslationTask`. Nothing is random: the same Django gives
the same records, so a second run stores the same rows again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polib

from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_worker.errors import ConfigurationError

__all__ = ["Catalogue", "find_catalogues"]

#: Each session's id is this and the path of its file inside the Django package.
ID_PREFIX = "django/"
SOURCE_LANGUAGE = "en"
MODEL = "human"

_PO_TIME = "%Y-%m-%d %H:%M%z"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One `.po` file; it is read when it is asked for its records."""

    session_id: str
    path: Path

    def read(self) -> tuple[TranslationSession, list[TranslationTask]]:
        """The file's session and its tasks in their final state, every field set."""
        file = polib.pofile(str(self.path))
        created_at, revised_at = _time(file, "POT-Creation-Date"), _time(file, "PO-Revision-Date")
        tasks = [_task(self.session_id, number, entry, created_at, revised_at) for number, entry in enumerate(file)]
        return self._session(file, tasks, created_at, revised_at), tasks

    def _session(
        self, file: Any, tasks: list[TranslationTask], created_at: datetime | None, revised_at: datetime | None
    ) -> TranslationSession:
        return TranslationSession(
            session_id=self.session_id,
            user_id=file.metadata.get("Last-Translator") or None,
            source_language=SOURCE_LANGUAGE,
            target_language=self.path.parts[-3],
            status="completed",
            total_tasks=len(tasks),
            completed_tasks=sum(task.status == "completed" for task in tasks),
            failed_tasks=0,
            started_at=created_at,
            ended_at=revised_at,
            metadata={"domain": self.path.stem, "headers": dict(file.metadata), "comment": file.header},
        )


def find_catalogues(limit: int | None = None) -> list[Catalogue]:
    """
    The catalogues of the installed Django, in the order of their paths.

    Args:
        limit: How many, the first ones; None for all.

    Raises:
        ConfigurationError: Django is not installed.
    """
    spec = find_spec("django")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError('the demo needs Django\'s message catalogues: pip install "penstock[demo]"')
    root = Path(spec.submodule_search_locations[0])
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.po"))
    return [Catalogue(ID_PREFIX + name, root / name) for name in names[:limit]]


def _task(
    session_id: str, number: int, entry: Any, created_at: datetime | None, revised_at: datetime | None
) -> TranslationTask:
    forms = [text for _, text in sorted(entry.msgstr_plural.items())]
    text = entry.msgstr or next(iter(forms), "")
    is_completed = entry.translated()
    # Messages of a file share its dates; a millisecond each keeps them apart.
    offset = timedelta(milliseconds=number)
    return TranslationTask(
        task_id=f"{session_id}#{number:05d}",
        session_id=session_id,
        sequence=number,
        status="completed" if is_completed else "pending",
        source_text=entry.msgid,
        translated_text=text or None,
        model=MODEL,
        tokens=len(entry.msgid.split()) + len(text.split()),
        error=None,
        retry_count=0,
        created_at=created_at and created_at + offset,
        started_at=created_at + offset if created_at and is_completed else None,
        completed_at=revised_at + offset if revised_at and is_completed else None,
        metadata=dict(_details(entry, forms)),
    )


def _details(entry: Any, forms: list[str]) -> Iterator[tuple[str, Any]]:
    """What a message says beside its text; absent where it says nothing."""
    details = {
        "context": entry.msgctxt,
        "plural": entry.msgid_plural,
        "plural_forms": forms,
        "comment": entry.comment,
        "translator_comment": entry.tcomment,
        "occurrences": [":".join(part for part in place if part) for place in entry.occurrences],
        "flags": entry.flags,
        "is_fuzzy": entry.fuzzy,
        "is_obsolete": bool(entry.obsolete),
        "previous": [entry.previous_msgctxt, entry.previous_msgid, entry.previous_msgid_plural],
    }
    return ((name, value) for name, value in details.items() if _says_something(value))


def _says_something(value: Any) -> bool:
    return any(value) if isinstance(value, list) else bool(value)


def _time(file: Any, header: str) -> datetime | None:
    """A date of the file's header; None where it is absent or still the template's `YEAR-MO-DA`."""
    try:
        return datetime.strptime(file.metadata.get(header, ""), _PO_TIME).astimezone(UTC)
    except ValueError:
        return None
