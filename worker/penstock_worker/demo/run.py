"""One run of the demo: publish, wait until all is stored, compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock_worker.demo.publish import Publishers
from penstock_worker.errors import ConfigurationError, PenstockError
from penstock_worker.settings import Settings
from penstock_worker.store.queries import open_reader, run_progress

__all__ = ["DemoFailed", "OnProgress", "Summary", "run_demo"]

#: Called with the events published and the events ended so far, and whether the first number is final.
OnProgress = Callable[[int, int, bool], None]

#: How long nothing may happen before the run gives up.
SILENCE_S = 120.0
_POLL_S = 0.2
_COMPARE = Path(__file__).with_name("compare.py")


class DemoFailed(PenstockError):  # noqa: N818  # it is a finding
    """Raised when the run cannot come to its end: a producer process died."""


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What a run amounts to.

    Args:
        published: Events that the broker confirmed.
        stored: Of those, the events whose effect is in a row, says the ledger.
        lost, extra, mismatched: Rows, says the comparison.
        seconds: From the start of the producers until the last event was stored.
    """

    published: int
    stored: int
    dead_lettered: int
    lost: int
    extra: int
    mismatched: int
    sessions: int
    tasks: int
    seconds: float
    events_per_s: int

    @property
    def is_good(self) -> bool:
        """Whether everything is where it must be."""
        return self.published == self.stored and not (self.dead_lettered or self.lost or self.extra or self.mismatched)


def run_demo(settings: Settings, files: int | None, processes: int, on_progress: OnProgress) -> Summary:
    """
    Publish the catalogues through a broker whose worker runs, and compare.

    Args:
        settings: Where to.
        files: How many catalogues, the first ones; None for all.
        processes: Producers.
        on_progress: Told how far it is, some times a second.

    Raises:
        ConfigurationError: Nothing was stored for two minutes, the database went away, or Django is missing.
        DemoFailed: A producer process died.
    """
    _check_tables_are_ours(settings)
    publishers = Publishers(settings.broker, settings.queue, files, processes)
    start = time.monotonic()
    publishers.start()
    try:
        stored, dead_lettered = _wait_until_ended(settings, publishers, on_progress)
    finally:
        publishers.stop()
    seconds = time.monotonic() - start
    return Summary(
        published=publishers.published,
        stored=stored,
        dead_lettered=dead_lettered,
        **compare(settings, files),
        seconds=round(seconds, 2),
        events_per_s=round(stored / seconds),
    )


def compare(settings: Settings, files: int | None) -> dict[str, int]:
    """
    What the comparison program finds, in a process of its own.

    Raises:
        ConfigurationError: It found nothing to compare.
    """
    limit = [] if files is None else [f"--files={files}"]
    done = subprocess.run(
        [sys.executable, "-P", str(_COMPARE), *limit],
        env={**os.environ, "PENSTOCK_DATABASE_URL": settings.database},
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise ConfigurationError("the comparison could not be made, see above")
    found: dict[str, int] = json.loads(done.stdout)
    # How many rows were found is not how many events were stored, which the summary tells.
    del found["stored"]
    return found


def _check_tables_are_ours(settings: Settings) -> None:
    """The comparison looks at whole tables: in those of somebody else it would call every row extra."""
    with open_reader(settings) as reader:
        other = reader.execute(
            "SELECT session_id FROM translation.sessions WHERE NOT starts_with(session_id, 'django/') LIMIT 1"
        ).fetchone()
    if other:
        raise ConfigurationError(
            f"translation.sessions holds rows that are not the demo's ({other[0]}): run it in another folder or database"
        )


def _wait_until_ended(settings: Settings, publishers: Publishers, on_progress: OnProgress) -> tuple[int, int]:
    """The events stored and dead-lettered, once all have ended."""
    heard_at, last = time.monotonic(), (0, 0)
    with open_reader(settings) as reader:
        while True:
            # In this order: what is published when nobody publishes any more is all there is.
            is_final = not publishers.is_running
            progress = run_progress(reader, publishers.producers)
            published = publishers.published
            on_progress(published, progress.ended, is_final)
            if publishers.has_failed:
                raise DemoFailed("a producer process died, see above")
            if is_final and progress.ended >= published:
                return progress.stored, progress.dead_lettered
            if (published, progress.ended) != last:
                heard_at, last = time.monotonic(), (published, progress.ended)
            elif time.monotonic() - heard_at > SILENCE_S:
                missing = published - progress.ended
                raise ConfigurationError(
                    f"{missing:,} events wait and nothing was stored for {SILENCE_S:.0f} s: does a worker run?"
                )
            time.sleep(_POLL_S)
