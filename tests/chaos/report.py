"""What a run says at its end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tests.chaos.plan import KINDS
from tests.chaos.run import Hit, Outcome

__all__ = ["last_line", "report"]

#: Findings that are printed.
_SHOWN = 20
_HEAD = ("fault", "how often", "events", "lost", "doubled", "wrong", "recovery s: median", "max")


def report(outcomes: Sequence[Outcome]) -> str:
    """The findings, then the table, what events ended as by the checker and by the audit, then the last line."""
    lines: list[str] = []
    for outcome in outcomes:
        lines += _findings(outcome)
    lines += _table(outcomes)
    lines += [_endings(outcome) for outcome in outcomes]
    lines += [f"{outcome.plan.broker}: penstock audit: {outcome.audited.line}" for outcome in outcomes]
    return "\n".join([*lines, last_line(outcomes)])


def last_line(outcomes: Sequence[Outcome]) -> str:
    """The sum of all."""
    verdicts = [outcome.verdict for outcome in outcomes]
    events, faults = sum(verdict.events for verdict in verdicts), sum(hit.has_hit for each in outcomes for hit in each.hits)
    lost, doubled, wrong = (sum(len(getattr(verdict, name)) for verdict in verdicts) for name in ("lost", "doubled", "wrong"))
    return f"{events} events, {faults} faults, {lost} lost, {doubled} doubled, {wrong} wrong"


def _findings(outcome: Outcome) -> list[str]:
    verdict, plan = outcome.verdict, outcome.plan
    found = [(name, finding) for name in ("lost", "doubled", "wrong") for finding in getattr(verdict, name)]
    lines = [f"error: {error}" for error in outcome.errors]
    lines += [f"penstock audit: {finding}" for finding in outcome.audited.findings[:_SHOWN]]
    lines += [f"{name}: {finding}" for name, finding in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"... and {len(found) - _SHOWN} more")
    if lines:
        lines.append(f"replay with BROKER={plan.broker} SEED={plan.seed}")
    return lines


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    """A row a kind of fault; what was found about events of a time is told of every fault of that time."""
    hits = [hit for outcome in outcomes for hit in outcome.hits if hit.has_hit]
    rows: list[Sequence[str]] = [_HEAD]
    for kind in KINDS:
        own = [hit for hit in hits if hit.fault.kind == kind]
        if own:
            found = [str(sum(counts)) for counts in zip(*(hit.found for hit in own), strict=True)]
            rows.append((kind, str(len(own)), str(sum(hit.events for hit in own)), *found, *_recovery(own)))
    events = sum(outcome.verdict.events for outcome in outcomes)
    sums = [str(sum(len(getattr(each.verdict, name)) for each in outcomes)) for name in ("lost", "doubled", "wrong")]
    rows.append(("all", str(len(hits)), str(events), *sums, *(_recovery(hits) if hits else ("", ""))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _recovery(hits: Sequence[Hit]) -> tuple[str, str]:
    """Of those that nothing else disturbed, where there are any."""
    seconds = [hit.recovery_s for hit in hits if hit.is_lone] or [hit.recovery_s for hit in hits]
    return f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"


def _endings(outcome: Outcome) -> str:
    endings = ", ".join(f"{count} {name}" for name, count in sorted(outcome.verdict.endings.items()))
    return f"{outcome.plan.broker}: {endings}; {outcome.took_s / 60:.1f} minutes"
