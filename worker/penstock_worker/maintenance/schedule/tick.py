"""
One beat: it looks at the schedule every other second, and sends what is due where it leads.

Any number of them may run. One leads, by an advisory lock that its session has and that is asked for at every look. That makes
the usual case quiet; what makes it right is the claim: a run is sent by who sets the row's `next_run` from the time that was
due to the one after it, which only one of them can, with or without the lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

import psycopg

from penstock_worker.errors import BrokerAway
from penstock_worker.maintenance.schedule.decide import REFUSED, Decision, decide, timing_of
from penstock_worker.maintenance.schedule.sender import RunRefused, Send, line_of
from penstock_worker.store import schedule
from penstock_worker.store.connection import Connection
from penstock_worker.store.measures import cut_off
from penstock_worker.store.schedule import Default, Look, Row

__all__ = ["LOOK_S", "SILENCE_S", "Beat", "Sends"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at most: so soon an edit is seen, and the end of a leader.
LOOK_S = 2.0
#: Seconds after which the server ends the session of a beat that says nothing. A standby then leads within `LOOK_S`.
SILENCE_S = 8.0
#: How long a run waits for a worker at most, however far its next one is: RabbitMQ refuses a message that may wait for 50 days.
LONGEST_WAIT = timedelta(days=30)
#: Seconds between two looks at least, however short an interval is.
_SHORTEST_S = 0.05


class Sends(Protocol):
    """What a beat needs of a `Sender`."""

    def knows(self, task: str) -> bool: ...

    def open(self) -> AbstractContextManager[Send]: ...


@dataclass
class Beat:
    """
    Args:
        connect: Opens the connection that the lock belongs to.
        sender: Sends the runs.
        defaults: The jobs as the settings have them, by name.
        who: Host and process, for lists.
        on_sent: Told the name of each row of which a run was sent.
    """

    connect: Callable[[], Connection]
    sender: Sends
    defaults: Mapping[str, Default]
    who: str
    on_sent: Callable[[str], None] = lambda _name: None
    leads: bool = False
    _connection: Connection | None = None
    #: Runs that were claimed and could not be sent, while the database could not be told either.
    _owed: list[tuple[Row, datetime, str]] = field(default_factory=list)
    #: What is away or refused, and was said to be, with the words: the database, the broker, names of rows.
    _away: dict[str, str] = field(default_factory=dict)

    def tick(self, now: datetime | None = None) -> float:
        """
        Look once, and send what is due.

        Args:
            now: What time it is; the server's clock otherwise.

        Returns:
            Seconds until the next look. The database or the broker being away is no error: it is said once, and tried again.
        """
        try:
            return self._tick(now)
        except psycopg.errors.IdleSessionTimeout:
            logger.warning(
                "this beat was silent for %.0f s, and the server has ended its session: it was frozen",
                SILENCE_S,
                extra={"action": "beat_frozen"},
            )
            self.close()
            return _SHORTEST_S
        except psycopg.Error as exc:
            self._say_away("database", f"the database is away, nothing is sent until it is back: {line_of(exc)}")
            self.close()
            return LOOK_S

    def find_away(self, what: Literal["database", "broker"]) -> str | None:
        """Why nothing can be sent, as far as the last look at it has shown; the broker is looked at when something is due."""
        return self._away.get(what)

    def cut_off(self) -> None:
        """From another thread: let a tick that waits at a database which never answers fail, and find it away."""
        connection = self._connection
        if connection is not None:
            cut_off(connection)

    def close(self) -> None:
        """Give up the lead, at once; the next tick tries to have it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self.leads:
            logger.info("this beat leads no longer", extra={"action": "beat_stands_by"})
        self.leads = False

    def _tick(self, now: datetime | None) -> float:
        connection = self._open()
        self._give_back_owed(connection)
        look = schedule.look(connection, now)
        self._say_back("database")
        if not look.leads:
            self._stand_by()
            return LOOK_S
        if not self.leads:
            logger.info("this beat leads: it sends what is due", extra={"action": "beat_leads"})
            self.leads = True
        self._add_missing(connection, look)
        decisions = [(row, decide(row, look.now, self.sender.knows, self.defaults)) for row in look.rows]
        for row, decision in decisions:
            self._carry_out(connection, row, decision)
        self._send_due(connection, look.now, [(row, made) for row, made in decisions if made.action == "send"])
        return _pause(look.now, decisions)

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
            schedule.name_beat(self._connection, self.who, SILENCE_S)
        return self._connection

    def _stand_by(self) -> None:
        # It had the lock, and has not closed the connection: a pooler has given it another session.
        if self.leads:
            logger.warning(
                "this beat leads no longer: its session has lost the lock, and another beat has it",
                extra={"action": "beat_stands_by"},
            )
        self.leads = False

    def _add_missing(self, connection: Connection, look: Look) -> None:
        names = {row.name for row in look.rows}
        if missing := [default for name, default in self.defaults.items() if name not in names]:
            schedule.add_missing(connection, missing)

    def _carry_out(self, connection: Connection, row: Row, decision: Decision) -> None:
        """All but sending."""
        match decision.action:
            case "follow":
                schedule.follow(connection, row, self.defaults[row.name])
            case "clear":
                schedule.plan(connection, row, None, None, row.last_result)
            case "refuse":
                result = {"state": REFUSED, "error": decision.why}
                if schedule.plan(connection, row, None, None, result):
                    logger.error("%s is not run: %s", row.name, decision.why, extra={"action": "run_refused"})
            case "plan":
                is_mended = row.last_result is not None and row.last_result.get("state") == REFUSED
                last_result = None if is_mended else row.last_result
                schedule.plan(connection, row, decision.next_run, str(timing_of(row)), last_result)

    def _send_due(self, connection: Connection, now: datetime, due: Sequence[tuple[Row, Decision]]) -> None:
        """Nothing is claimed while the broker is away: what is due stays due."""
        if not due:
            return
        try:
            with self.sender.open() as send:
                for row, decision in due:
                    assert decision.next_run is not None  # it goes with `send`
                    self._send_one(connection, send, row, now, decision.next_run)
        except BrokerAway as exc:
            self._say_away("broker", f"the broker is away, what is due is sent when it is back: {line_of(exc)}")
        else:
            self._say_back("broker")

    def _send_one(self, connection: Connection, send: Send, row: Row, now: datetime, next_run: datetime) -> None:
        # The claim comes first: the other way round, a beat that ends in between would leave a run that another sends again.
        if not schedule.claim(connection, row, now, next_run, str(timing_of(row))):
            return
        try:
            send(row, min(next_run, now + LONGEST_WAIT))
        except BrokerAway as exc:
            self._give_back(connection, row, next_run, exc)
            raise
        except RunRefused as exc:
            self._give_back(connection, row, next_run, exc)
            self._say_away(row.name, f"{row.name} is not sent, the broker refuses it, and is tried again: {exc}")
        except Exception as exc:  # noqa: BLE001  # arguments that are not the task's, or no message: that row's fault
            schedule.note_result(connection, row.name, {"state": "failed", "error": line_of(exc)})
            logger.error("%s was not sent: %s", row.name, line_of(exc), extra={"action": "run_not_sent"})  # noqa: TRY400  # a traceback tells a person nothing
        else:
            self._away.pop(row.name, None)
            self.on_sent(row.name)
            logger.info("%s is sent (%s)", row.name, row.task, extra={"action": "scheduled", "task": row.task})

    def _give_back(self, connection: Connection, row: Row, claimed: datetime, exc: Exception) -> None:
        self._owed.append((row, claimed, line_of(exc)))
        self._give_back_owed(connection)

    def _give_back_owed(self, connection: Connection) -> None:
        while self._owed:
            row, claimed, why = self._owed[0]
            schedule.give_back(connection, row, claimed, why)
            del self._owed[0]

    def _say_away(self, what: str, line: str) -> None:
        if what not in self._away:
            self._away[what] = line
            logger.warning(line, extra={"action": "schedule_waits"})

    def _say_back(self, what: str) -> None:
        if what in self._away:
            del self._away[what]
            logger.info("the %s is back", what, extra={"action": "schedule_goes_on"})


def _pause(now: datetime, decisions: Sequence[tuple[Row, Decision]]) -> float:
    """Seconds until something is due. What was due and could not be claimed or sent has no time here: it waits for a look."""
    known = [decision.next_run or row.next_run for row, decision in decisions if decision.action in ("wait", "plan", "send")]
    soon = min(((at - now).total_seconds() for at in known if at is not None), default=LOOK_S)
    return min(max(soon, _SHORTEST_S), LOOK_S)
