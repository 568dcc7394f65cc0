"""One run: writers publish, faults hit round by round, then all becomes quiet and is counted."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.cases import TYPES
from tests.chaos.audit import Audited, audit
from tests.chaos.checker import Key, Verdict, check
from tests.chaos.faults import PATIENCE_S, Missed, inject, until
from tests.chaos.log import Published, read_log
from tests.chaos.plan import Fault, Plan, Round
from tests.chaos.site import Lent, Shape, Site, Writer, open_site
from tests.chaos.state import read_found, read_outcomes

__all__ = ["STALL_S", "Hit", "Outcome", "run"]

Say = Callable[[str], None]

#: Seconds without any progress after which what is missing is called lost.
STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Hit:
    """
    A fault that was done.

    Args:
        proof: That it hit, or why it did not.
        events: How many were published from its begin until everything worked again.
        found: Findings about events of that time: lost, doubled, wrong. One fault of several that overlap is to blame.
        recovery_s: From its end until an event published after it was stored.
        is_lone: No other fault was there between its begin and the recovery.
    """

    fault: Fault
    proof: str
    events: int
    found: tuple[int, int, int]
    recovery_s: float
    is_lone: bool
    has_hit: bool = True


@dataclass(slots=True)
class Outcome:
    """What came of a run; `errors` are the run's own."""

    plan: Plan
    hits: list[Hit] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    audited: Audited = field(default_factory=Audited)
    took_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Every fault hit, everything came back, nothing is lost, doubled or wrong, and `penstock audit` says the same."""
        return self.verdict.is_good and not self.errors and not self.audited.findings


@dataclass(slots=True)
class _Span:
    """When a fault was there: begin, end and recovery, in seconds since 1970."""

    fault: Fault
    began_at: float
    proof: str = ""
    ended_at: float = 0.0
    back_at: float = 0.0
    error: str = ""


def run(
    plan: Plan, shape: Shape, folder: Path, say: Say = print, *, stall_s: float = STALL_S, lent: Lent | None = None
) -> Outcome:
    """
    Carry out a plan, on servers of its own where none are lent.

    Args:
        folder: Empty; servers, logs and spools go there. The caller removes it.
        say: Told what happens.
        stall_s: Seconds without any progress after which what is missing is called lost.
    """
    outcome = Outcome(plan)
    began = time.monotonic()
    with open_site(plan.broker, plan.seed, shape, folder, lent) as site:
        site.start()
        spans: list[_Span] = []
        for number, lanes in enumerate(plan.rounds, start=1):
            spans += _round(site, lanes, number, say)
            if any(span.error for span in spans) or not _is_alive(site, outcome):
                break
        outcome.errors += [f"{span.fault}: {span.error}" for span in spans if span.error]
        say("the faults are over: writers close, what is left is sent")
        published = _settle(site, outcome, say, stall_s)
        with psycopg.connect(site.database_url) as connection:
            found = read_found(connection)
        outcome.verdict = check(TYPES, published, found, site.wiped)
        outcome.audited = audit(site.database_url, site.broker_url, published, found.outcomes, site.wiped)
        outcome.hits = [_hit(span, spans, published, outcome.verdict) for span in spans]
    outcome.took_s = time.monotonic() - began
    return outcome


def _round(site: Site, lanes: Round, number: int, say: Say) -> list[_Span]:
    """Run the lanes of a round, and wait until everything works again."""
    spans: list[_Span] = []
    threads = [threading.Thread(target=_lane, args=(site, lane, spans, say), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worst_s = max((span.back_at - span.ended_at for span in spans), default=0.0)
    say(f"round {number}: {len(spans)} faults, all works again after {worst_s:.1f} s at most")
    return spans


def _lane(site: Site, faults: tuple[Fault, ...], spans: list[_Span], say: Say) -> None:
    recoveries = []
    for fault in faults:
        time.sleep(fault.after_s)
        span = _Span(fault, time.time())
        spans.append(span)
        try:
            span.proof = inject(site, fault)
        except Missed as exc:
            span.error = f"missed: {exc}"
        except Exception:  # noqa: BLE001  # an error of the harness ends the run, with its words
            span.error = traceback.format_exc()
        span.ended_at = time.time()
        say(f"  {fault}: {span.proof or span.error}")
        # The next fault does not wait for the recovery: it may be part of what this one is to meet.
        recoveries.append(threading.Thread(target=_recover, args=(site, span), daemon=True))
        recoveries[-1].start()
        if span.error:
            break
    for recovery in recoveries:
        recovery.join()


def _recover(site: Site, span: _Span) -> None:
    try:
        site.canary.sing(PATIENCE_S)
    except TimeoutError as exc:
        span.error = span.error or str(exc)
    except Exception:  # noqa: BLE001  # an error of the harness ends the run, with its words
        span.error = span.error or traceback.format_exc()
    span.back_at = time.time()


def _is_alive(site: Site, outcome: Outcome) -> bool:
    """Whether everything that should run does; what has ended by itself is an error of the run."""
    for process in [*site.workers, *(writer.process for writer in site.writers)]:
        if not process.is_running:
            outcome.errors.append(f"{process.name} ended by itself with {process.exit_code}: {process.last_words()}")
    return not outcome.errors


def _settle(site: Site, outcome: Outcome, say: Say, stall_s: float) -> list[Published]:
    """End the writers, have orphans adopted, and wait until every event has its outcome or nothing happens any more."""
    for writer in site.writers:
        writer.process.send_signal(signal.SIGTERM)
    for writer in site.writers:
        writer.end()
        say(f"  {writer.name} has ended")
    with suppress(TimeoutError):
        site.canary.sing(PATIENCE_S)
    site.canary.end()
    _adopt(site, outcome, say)
    published = site.published()
    say(f"{len(published)} events were published; waiting for their outcomes")
    _wait_for_outcomes(site, published, stall_s)
    for worker in site.workers:
        worker.stop(120)
    return published


def _adopt(site: Site, outcome: Outcome, say: Say) -> None:
    """The next producer of each folder sends what the others left; nobody does anything by hand."""
    places = {(writer.spool, writer.port) for writer in [*site.writers, *site.past_writers]}
    for number, (folder, port) in enumerate(sorted(places)):
        adopter = Writer(site, f"adopter{number}", is_journaled=True, spool=folder, port=port, events=1)
        site.past_writers.append(adopter)
        deadline = time.monotonic() + 4 * STALL_S
        # More than once: a file that was just being given back is adopted by a later look.
        while site.spooled(folder) and time.monotonic() < deadline:
            adopter.start()
            with suppress(Missed):
                _wait_for_empty(site, adopter)
            adopter.end()
            say(f"  {folder.name} was adopted by {adopter.process.name}")
        if left := site.spooled(folder):
            outcome.errors.append(f"left in {folder.name}: {', '.join(path.name for path in left)}")


def _wait_for_empty(site: Site, adopter: Writer) -> None:
    """Only the adopter's own file is left, and all that it sent was answered."""
    until(lambda: _has_adopted(site, adopter), STALL_S, what=f"an empty {adopter.spool.name}")


def _has_adopted(site: Site, adopter: Writer) -> bool:
    # Before its event it has nothing to be answered either; that says nothing of what it is to adopt.
    status = adopter.status()
    own = {one.event["epoch"] for one in read_log(adopter.log, adopter.name, is_journaled=True)}
    is_answered = bool(own) and status.get("accepted") == 1 and status.get("unreceipted") == 0
    return is_answered and {path.stem for path in site.spooled(adopter.spool)} <= own


def _wait_for_outcomes(site: Site, published: list[Published], stall_s: float) -> None:
    """As long as outcomes keep coming; those that never come are the checker's to name."""
    wanted = {one.key for one in published if one.is_accepted and not one.is_excused(site.wiped)}
    left, changed = -1, time.monotonic()
    while left and time.monotonic() - changed < stall_s:
        before, left = left, _count_missing(site, wanted)
        if left != before:
            changed = time.monotonic()
        time.sleep(0.2)
    until(lambda: site.waiting_messages() == 0, what="an empty queue")


def _count_missing(site: Site, wanted: set[Key]) -> int:
    with psycopg.connect(site.database_url) as connection:
        return len(wanted - read_outcomes(connection).keys())


def _hit(span: _Span, spans: list[_Span], published: list[Published], verdict: Verdict) -> Hit:
    others = [other for other in spans if other is not span]
    is_lone = not any(other.began_at < span.back_at and other.back_at > span.began_at for other in others)
    events = sum(span.began_at <= one.at <= span.back_at for one in published)
    lost, doubled, wrong = (
        sum(span.began_at <= finding.at <= span.back_at for finding in findings)
        for findings in (verdict.lost, verdict.doubled, verdict.wrong)
    )
    proof, recovery_s = span.proof or span.error, span.back_at - span.ended_at
    return Hit(span.fault, proof, events, (lost, doubled, wrong), recovery_s, is_lone, has_hit=not span.error)
