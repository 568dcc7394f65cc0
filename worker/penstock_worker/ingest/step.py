"""
The ingest step of the worker: deliveries in, batches to the pool, outcomes back to the broker.

It runs in the worker's main process, in its event loop, and never decodes a message or talks to the database.

    source --deliver--> Buffer --rows | bytes | age--> ready --a child is free--> penstock.write_batch
       ^                                                                               |
       +------ ack | give back as fresh | split in halves | pause and probe <----------+
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from celery import bootsteps
from celery.exceptions import WorkerShutdown
from kombu.utils.uuid import uuid

from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest import failpoints
from penstock_worker.ingest.amqp_source import AmqpSource
from penstock_worker.ingest.answers import ANSWERS, split_answers
from penstock_worker.ingest.batch import Batch, Buffer, Limits, halves
from penstock_worker.ingest.database_look import DatabaseLook
from penstock_worker.ingest.flight import Flight, Probe
from penstock_worker.ingest.flush import Flushes
from penstock_worker.ingest.metrics import IngestMetrics
from penstock_worker.ingest.pool import finish_writes_at_shutdown, widen_pipes
from penstock_worker.ingest.redis_source import RedisSource
from penstock_worker.ingest.request import Submitter
from penstock_worker.ingest.source import Delivery, Source
from penstock_worker.ingest.stall import Pulse, Stall
from penstock_worker.settings import Settings

__all__ = ["IngestStep"]

logger = logging.getLogger(__name__)

#: Seconds after an error until the next batch is begun all the same.
GO_ON_S = 1.0
#: Seconds between two looks whether a pool process died. Celery looks when the process's pipe closes, which is at times a
#: moment before the process can be collected, and then not again for five seconds.
POOL_LOOK_S = 0.25


class IngestStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Consumes the queue of events; see the module."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "penstock-ingest"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.consumer = c
        self.settings: Settings = c.app.penstock_settings
        self.buffer = Buffer(Limits(self.settings.batch_max_events, self.settings.batch_max_bytes))
        self.ready: deque[Batch] = deque()
        self.in_flight: set[Flight] = set()
        self.is_stopping = False
        #: Why no batch is written for now; None while nothing keeps it from that.
        self.paused_why: str | None = None
        self._source: Source | None = None
        self._age_timer: Any = None
        self._probe_timer: Any = None
        self._pool_timer: Any = None
        self._is_due = False
        self._flushes = Flushes()
        self._consumed = 0
        #: What the watch looks at, and what it finds; see `penstock_worker.ingest.watch`.
        self.pulse: Pulse | None = None
        self.stall: Stall | None = None
        self.database = DatabaseLook(self.settings.ready_check_s, self._on_looked_away, self._on_look_lost, self.on_ended)
        self.metrics = IngestMetrics(self, c.app.penstock_types)
        c.ingest_step = self

    # -- Celery's calls ------------------------------------------------------------------------------------------------------

    def start(self, c: Any) -> None:
        """Connect. Also after a lost connection: batches of the time before may still be running."""
        if type(c.pool).__module__ != "celery.concurrency.prefork":
            raise _hopeless("penstock needs the prefork pool: start the worker with --pool prefork")
        finish_writes_at_shutdown(c.pool)
        self.is_stopping = False
        self._writes = Submitter(c, c.app.tasks["penstock.write_batch"])
        self._probes = Submitter(c, c.app.tasks["penstock.probe"])
        self.database.begin(self._probes)
        if self._source is None:
            try:
                self._source = _source(self.settings, c)
            except ConfigurationError as exc:
                raise _hopeless(exc) from exc
        for batch in self._reclaim(is_reconnected=True):
            self._source.abandon(batch.deliveries)
        self._pool_timer = c.timer.call_repeatedly(POOL_LOOK_S, self._look_around)
        # Not at once: deliveries may come before the pool is registered with the event loop.
        c.call_soon(self._consume)

    def stop(self, c: Any) -> None:
        """
        Take no more and return what has not been handed to the pool; what has will be finished and acknowledged.

        Called at a lost connection too, when returning may fail: then the broker takes back by itself.
        """
        self.is_stopping = True
        self.pulse = None
        self._cancel_timers()
        self.paused_why = None
        if self._source is None:
            return
        waiting = self._take_waiting() + self._reclaim(is_reconnected=False)
        try:
            self._source.stop()
            self._return(waiting)
        except (*c.connection_errors, *c.channel_errors) as exc:
            logger.info("the broker is away, it takes back what waits here: %s", exc, extra={"action": "broker_away"})
            for batch in waiting:
                self._source.abandon(batch.deliveries)
            self._source.close()

    def shutdown(self, c: Any) -> None:
        """Disconnect, when the pool has drained."""
        self._cancel_timers()
        if self._source is not None:
            try:
                self._source.close()
            except (*c.connection_errors, *c.channel_errors) as exc:
                logger.info("the broker was away at the end: %s", exc, extra={"action": "broker_away"})
            self._source = None

    def info(self, c: Any) -> dict[str, Any]:
        """Shown by `inspect stats`."""
        del c
        waiting = self._source.depth() if self._source is not None and not self.is_stopping else None
        return {"penstock": {**self.state(), "waiting_messages": waiting}}

    def state(self) -> dict[str, Any]:
        """What the step holds."""
        stall = self.stall
        return {
            "queue": self.settings.queue,
            "is_paused": self.is_paused,
            "paused_why": self.paused_why,
            "buffered_bytes": self.buffer.size,
            "held_messages": self._count_held(),
            "ready_batches": len(self.ready),
            "running_batches": len(self.in_flight),
            "is_stalled": stall is not None,
            "stalled_since": datetime.fromtimestamp(stall.since, UTC).isoformat() if stall else None,
            "stalled_why": stall.why if stall else None,
        }

    def _count_held(self) -> int:
        """Messages that are not acknowledged yet."""
        return self.buffer.messages + sum(len(batch.deliveries) for batch in self._held())

    def _held(self) -> list[Batch]:
        """Batches that are not acknowledged yet."""
        return [*self.ready, *(flight.batch for flight in self.in_flight)]

    def _look_around(self) -> None:
        """
        Tell the watch that the loop turns, and Celery to look for dead children; new ones get wide pipes.

        A pool child without a batch has time to look at the database, when it is due.
        """
        if not self.is_paused and self._is_child_free():
            self.database.look_if_due()
        # Who waits for a look waits for the database, and does not stand still.
        is_idle = not self.in_flight and not self.database.is_looking
        oldest_batch_at = min((flight.began_at for flight in self.in_flight), default=None)
        self.pulse = Pulse(
            at=time.monotonic(),
            consumed=self._consumed,
            paused_why=self.paused_why,
            could_work=self._has_room() or is_idle,
            is_idle_with_work=is_idle and (bool(self.ready) or not self.buffer.is_empty),
            oldest_batch_at=oldest_batch_at,
            database_why=self.database.why(oldest_batch_at),
        )
        self.consumer.pool.maintain_pool()
        widen_pipes(self.consumer.pool)

    @property
    def is_paused(self) -> bool:
        """Whether it waits until a probe succeeds."""
        return self.paused_why is not None

    # -- deliveries to batches -----------------------------------------------------------------------------------------------

    @property
    def source(self) -> Source:
        """The broker's side; there is one from the first start on."""
        assert self._source is not None, "the step has been started"
        return self._source

    def _consume(self) -> None:
        try:
            self.source.start(self._receive, self._has_room)
        except ConfigurationError as exc:
            raise _hopeless(exc) from exc

    def _has_room(self) -> bool:
        """Whether more may come: as many batches ready as can run, and bytes within bounds."""
        held = self.buffer.size + sum(batch.size for batch in self.ready) + sum(flight.batch.size for flight in self.in_flight)
        return not self.is_paused and len(self.ready) < self.settings.concurrency and held < self.settings.held_max_bytes

    def _receive(self, deliveries: Sequence[Delivery]) -> None:
        self._consumed += len(deliveries)
        self.metrics.messages.inc(len(deliveries))
        self.ready.extend(self.buffer.add_all(deliveries))
        self._pump()
        if not self.buffer.is_empty and self._age_timer is None:
            self._age_timer = self.consumer.timer.call_after(self.settings.batch_max_age_s, self._on_age)

    def _on_age(self) -> None:
        """The oldest message has waited long enough; if no child is free it goes on waiting, and the batch grows."""
        self._age_timer = None
        self._is_due = True
        self._pump()

    def flush(self, id: str) -> dict[str, Any]:
        """Write all that is held, now; returns what `look_at_flush` does."""
        self.ready.extend(self.buffer.take("flush"))
        self._flushes.begin(id, self._held())
        self._pump()
        return self.look_at_flush(id)

    def look_at_flush(self, id: str) -> dict[str, Any]:
        """How far a flush of this step's queue is, see `Flushes.look`; no numbers if it is not known."""
        told = self._flushes.look(id, self._held()) or {}
        return {"queue": self.settings.queue, "paused_why": self.paused_why, **told}

    def _pump(self) -> None:
        """Give the pool what it can run: never more, so that nothing hides in queues that a lost connection empties."""
        while self._is_child_free() and not self.is_paused and not self.is_stopping:
            if not self.ready and self._is_due:
                self.ready.extend(self.buffer.take("age"))
                self._is_due = False
            if not self.ready:
                return
            self._submit(self.ready.popleft())

    def _is_child_free(self) -> bool:
        return len(self.in_flight) + self.database.is_looking < self.settings.concurrency

    def _submit(self, batch: Batch) -> None:
        mode = "alone_innocent" if batch.is_innocent else "alone" if batch.is_alone else "together"
        raws = [tuple(delivery.raw) for delivery in batch.deliveries]
        self.in_flight.add(Flight(self, batch, partial(self._writes.submit, (raws, mode), str(batch))))

    # -- outcomes ------------------------------------------------------------------------------------------------------------

    def on_written(self, batch: Batch, result: dict[str, Any]) -> None:
        """Committed: the ONE place that acknowledges."""
        self.database.note_reached()
        failpoints.hit("before_ack")
        self.source.ack(batch.deliveries)
        for flush in batch.flushes:
            flush.written(len(batch.deliveries))
        # Second: who hears that an event is stored must not see it delivered again because of a lost ack.
        if answers := split_answers(result.pop(ANSWERS, "")):
            self.source.answer(answers)
        logger.debug("batch written: %s", result, extra={"action": "batch_written", "trigger": batch.trigger})

    def on_away(self, batch: Batch, reason: str) -> None:
        """The database is away: everything goes back once, and nothing comes until a probe succeeds."""
        self.database.note_away(reason)
        self._pause(batch, f"the database is away: {reason}")

    def _pause(self, batch: Batch, why: str) -> None:
        if batch.is_alone and not self.is_stopping:
            batch.is_innocent = True
            self.ready.appendleft(batch)
        else:
            self.source.give_back(batch.deliveries)
        self._begin_pause(why)

    def _begin_pause(self, why: str) -> None:
        if not self.is_paused and not self.is_stopping:
            logger.warning("paused, %s", why, extra={"action": "paused"})
            self.paused_why = why
            self.metrics.pauses.inc()
            self.source.pause()
            waiting = self._take_waiting()
            # Lone suspects stay: that their last try ended in order is known here only.
            self.ready.extend(batch for batch in waiting if batch.is_innocent)
            self._return([batch for batch in waiting if not batch.is_innocent])
            self._probe_later()

    def on_lost(self, batch: Batch) -> None:
        """Whoever read it died: the culprit is found by halving, and what is alone is counted in the database."""
        logger.error("a pool process died with %s", batch, extra={"action": "reader_lost"})
        if self.is_stopping:
            self.source.give_back(batch.deliveries, is_suspect=True)
            return
        self.ready.extendleft(reversed(halves(batch)))

    def on_failed(self, batch: Batch) -> None:
        """The task raised, which it never should: what it met is found like a killer, and alone it is held."""
        if not batch.is_alone and not self.is_stopping:
            self.ready.extendleft(reversed(halves(batch)))
            return
        self._pause(batch, "penstock.write_batch raised, see the worker's log")

    def on_ended(self) -> None:
        """A place in the pool is free."""
        self._pump()
        if not self.is_stopping:
            self.source.wake()

    def go_on_later(self) -> None:
        """Something went wrong; if the worker does not reconnect because of it, it must not stand still either."""
        self.consumer.timer.call_after(GO_ON_S, self.on_ended)

    # -- pause ---------------------------------------------------------------------------------------------------------------

    def _probe_later(self) -> None:
        self._probe_timer = self.consumer.timer.call_after(self.settings.probe_s, self._probe)

    def _probe(self) -> None:
        self._probe_timer = None
        if self.is_paused and not self.is_stopping:
            self._probes.submit((), "<is the database there?>", Probe(self))

    def on_probed(self, reason: str | None) -> None:
        if self.is_stopping or not self.is_paused:
            return
        if reason is not None:
            logger.info("still paused: %s", reason, extra={"action": "still_paused"})
            self._probe_later()
            return
        logger.warning("resumed, the database is back", extra={"action": "resumed"})
        self.paused_why = None
        self.database.note_reached()
        self.database.look_soon()
        self.source.resume()
        self._pump()

    def _on_looked_away(self, reason: str) -> None:
        """An idle worker has found what its next batch would have."""
        self._begin_pause(f"the database is away: {reason}")

    def _on_look_lost(self) -> None:
        self.metrics.lost_children.inc()

    def _take_waiting(self) -> list[Batch]:
        """Everything that no child has."""
        waiting = [*self.ready, *self.buffer.take("stop")]
        self.ready.clear()
        return waiting

    def _reclaim(self, *, is_reconnected: bool) -> list[Batch]:
        """The batches of flights that Celery has thrown away; without this their places in the pool were lost for ever."""
        gone = [flight for flight in self.in_flight if flight.is_gone(is_reconnected=is_reconnected)]
        self.in_flight.difference_update(gone)
        return [flight.abandon() for flight in gone]

    def _return(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self.source.give_back(batch.deliveries, is_suspect=batch.is_suspect and not batch.is_innocent)

    def _cancel_timers(self) -> None:
        for timer in (self._age_timer, self._probe_timer, self._pool_timer):
            if timer is not None:
                timer.cancel()
        self._age_timer = self._probe_timer = self._pool_timer = None


def _hopeless(reason: object) -> WorkerShutdown:
    """What ends the worker for good: a person must change something, and reads here what."""
    logger.critical("%s", reason, extra={"action": "worker_refused"})
    return WorkerShutdown(2)


def _source(settings: Settings, c: Any) -> Source:
    if settings.broker.startswith("redis"):
        return RedisSource(settings, c.timer, owner=f"{c.hostname}:{uuid()}")
    return AmqpSource(settings, c.timer, c.hub)
