"""
Whether a process is live and whether it is ready, decided from what its loop says of itself, see `stall`.

Who is not live is restarted, so only what a restart may cure counts: a loop that hangs, a batch without end, a deaf consumer.
Who is not ready waits for something else, and to restart it would help nobody.

| what happens                                      | live | ready |
|---------------------------------------------------|------|-------|
| it starts, stops, connects again                  | yes  | no    |
| the broker is away, or answers nobody             | yes  | no    |
| the database is away, the worker is paused        | yes  | no    |
| the database answers no batch and no look         | yes  | no    |
| the database lacks migrations                     | yes  | no    |
| the loop hangs, or it stands still in another way | no   | no    |
| the thread that watches all this hangs            | no   | no    |
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock_worker.ingest.stall import Pulse, Stall
from penstock_worker.probe import Check

__all__ = ["Facts", "check_live", "check_ready"]

#: Seconds without a word from the watching thread. It asks the broker, so a resolver of names that answers nobody may hold it
#: up for a while.
WATCH_SILENT_S = 120.0
#: Seconds without a pulse after which nobody should count on the process; whether it hangs is decided much later.
PULSE_OLD_S = 10.0


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What is known of a process; times are of the monotonic clock.

    Args:
        now: The present.
        looked_at: When the watch last looked.
        pulse: None while the loop is not connected.
        had_pulse: Whether there was one ever.
        stall: Why it stands still.
        is_stopping: It was told to end.
        is_broker_silent: The broker does not answer the watch.
    """

    now: float
    looked_at: float
    pulse: Pulse | None
    had_pulse: bool
    stall: Stall | None = None
    is_stopping: bool = False
    is_broker_silent: bool = False


def check_live(facts: Facts) -> Check:
    """Whether a restart could not make it better."""
    reasons = [facts.stall.why] if facts.stall else []
    silent_s = facts.now - facts.looked_at
    if silent_s > WATCH_SILENT_S:
        reasons.append(f"the thread that watches the loop has not looked for {silent_s:.0f} s")
    return Check(tuple(reasons))


def check_ready(facts: Facts) -> Check:
    """Whether it does its work now, or would if there were any."""
    reasons = [*check_live(facts).reasons, *_find_missing(facts)]
    return Check(tuple(dict.fromkeys(reasons)))


def _find_missing(facts: Facts) -> list[str]:
    pulse = facts.pulse
    if facts.is_stopping:
        return ["it is stopping"]
    if pulse is None:
        return ["it connects to the broker again" if facts.had_pulse else "it starts, and has not connected to the broker yet"]
    reasons = []
    silent_s = facts.now - pulse.at
    if silent_s > PULSE_OLD_S and facts.stall is None:
        reasons.append(f"the event loop has not turned for {silent_s:.0f} s")
    if facts.is_broker_silent:
        reasons.append("the broker does not answer")
    if pulse.paused_why is not None:
        reasons.append(f"paused, {pulse.paused_why}")
    elif pulse.database_why is not None:
        reasons.append(pulse.database_why)
    if pulse.broker_why is not None:
        reasons.append(pulse.broker_why)
    return reasons
