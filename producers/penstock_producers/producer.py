"""`Producer`: what a service holds. Everything here returns at once; the work is done by the outbox's thread."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock_producers import processes
from penstock_producers.clock import process_clock, version_of
from penstock_producers.keys import key_json
from penstock_producers.options import Durability, OnDrop, Options, Policy
from penstock_producers.outbox import Outbox
from penstock_producers.receipt import Receipt, receipt_of
from penstock_producers.spool.folder import address_of, default_folder, prepare
from penstock_producers.status import Status
from penstock_producers.transports import Broker, broker_for
from penstock_schemas import Record, RecordTooLarge
from penstock_schemas.wire import MAX_RECORD_BYTES, QUEUE, Op, encode_event

__all__ = ["Producer"]


class Producer:
    """
    Publishes records, fire and forget.

        producer = Producer("redis://localhost:6379/0", name="billing")
        producer.publish(Invoice(invoice_id="17", total=90))

    One for the whole process; safe under threads and forks. It connects when the first event is sent, not before.

    Args:
        broker_url: redis://, rediss://, amqp:// or amqps://.
        name: Of the service, as dead letters and the ledger tell it; default: the program's name.
        policy:
            When the buffer is full and the disk takes nothing. "drop_newest" and "drop_oldest" count and report what they drop.
            "block" waits for room, for at most `block_timeout_s`; "raise" does not wait.
        durability:
            "spill" holds events in memory, and moves them to disk when the broker is away, memory is full or the process ends.
            "journal" writes each to disk before `publish` returns and keeps it there until the worker has stored it. "memory"
            has no disk.
        fsync: Have the disk confirm each write, which survives a power loss, and takes milliseconds.
        spool_folder: Of the files; default: PENSTOCK_SPOOL_FOLDER, else ~/.local/state/penstock/spool. May be shared.
        spool_max_bytes: Of this process's file. Over it, and on a full disk, `policy` decides.
        max_events: Events held in memory at most, those under way included.
        max_bytes: Bytes of serialised events held at most. A single larger one is taken when nothing else is held.
        linger_s: How long an event waits for others to share its message.
        batch_events: Events in one message at most.
        batch_bytes: Bytes in one message at most; a larger record travels alone.
        on_drop: Called with (count, reason) when events were dropped, in the thread that noticed.
        heartbeat_s: Silence after which the producer says once how far it has come.
        late_after_s: Age of the oldest event that is logged as an error, again and again.
        timeout_s: How long connecting, writing and each confirm may take.
        exit_deadline_s: How long the end of the process, or `close()`, may be held up by what is not sent yet.
        queue: The queue of events.
        broker: In place of the URL's; for tests.

    Raises:
        ValueError: The URL or an option cannot be right, or a journal's folder cannot be written.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        name: str | None = None,
        durability: Durability = "spill",
        fsync: bool = False,
        spool_folder: str | Path | None = None,
        spool_max_bytes: int = 1024 * 1024 * 1024,
        policy: Policy = "drop_newest",
        max_events: int = 100_000,
        max_bytes: int = 64 * 1024 * 1024,
        block_timeout_s: float | None = None,
        linger_s: float = 0.05,
        batch_events: int = 500,
        batch_bytes: int = 1024 * 1024,
        on_drop: OnDrop | None = None,
        heartbeat_s: float = 30.0,
        late_after_s: float = 30.0,
        retry_min_s: float = 0.1,
        retry_max_s: float = 5.0,
        timeout_s: float = 5.0,
        exit_deadline_s: float = 5.0,
        queue: str = QUEUE,
        broker: Broker | None = None,
    ) -> None:
        options = Options(
            name=name or Path(sys.argv[0]).stem or "python",
            queue=queue,
            policy=policy,
            max_events=max_events,
            max_bytes=max_bytes,
            block_timeout_s=block_timeout_s,
            linger_s=linger_s,
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            heartbeat_s=heartbeat_s,
            late_after_s=late_after_s,
            retry_min_s=retry_min_s,
            retry_max_s=retry_max_s,
            timeout_s=timeout_s,
            exit_deadline_s=exit_deadline_s,
            on_drop=on_drop,
            durability=durability,
            fsync=fsync,
            spool_folder=Path(spool_folder) if spool_folder is not None else None,
            spool_max_bytes=spool_max_bytes,
        )
        if durability == "journal":
            _check_folder(options.spool_folder or default_folder())
        self._broker = broker or broker_for(broker_url, queue, timeout_s)
        self._outbox = Outbox(options, self._broker, address_of(broker_url, queue))
        processes.renew_after_fork(self)

    def publish(self, record: Record, *, occurred_at: datetime | None = None) -> Receipt:
        """
        Accept a record. It is serialised before this returns: what happens to the object afterwards does not matter.

        Args:
            record: Fields that were not set are not sent.
            occurred_at: When it happened, aware, for what is told late (backfill). The newest event of a key wins.

        Raises:
            RecordError: The record cannot be written as JSON that PostgreSQL can store.
            RecordTooLarge: It is over the limit of the wire (nearly 8 MiB).
            BufferFull: Only under the policies "block" and "raise".
            ProducerClosed: After `close()`.
        """
        outbox = self._outbox
        return receipt_of(outbox.epoch, outbox.accept(_upsert(record, occurred_at)), outbox.answers)

    def publish_many(self, records: Iterable[Record], *, occurred_at: datetime | None = None) -> list[Receipt]:
        """
        Accept many: like `publish` for each, but when one of them cannot be serialised none is accepted.

        Under the policy "raise" they are accepted all or none.
        """
        outbox = self._outbox
        events = [_upsert(record, occurred_at) for record in records]
        return [receipt_of(outbox.epoch, seq, outbox.answers) for seq in outbox.accept_many(events)]

    def delete(
        self, record_class: type[Record], /, *key: Any, occurred_at: datetime | None = None, **named_key: Any
    ) -> Receipt:
        """
        Accept the end of a record.

            producer.delete(Invoice, "17")
            producer.delete(Invoice, invoice_id="17")

        Raises:
            RecordError: The key is not one of this type, or the type is append-only.
        """
        outbox = self._outbox
        event = _event(record_class.__record__.type, "delete", key_json(record_class, key, named_key), occurred_at)
        return receipt_of(outbox.epoch, outbox.accept(event), outbox.answers)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Send what was accepted so far without lingering, and wait. Whether the broker has confirmed all of it (but drops)."""
        return self._outbox.flush(timeout_s)

    def sync(self, timeout_s: float = 10.0) -> bool:
        """
        Try now, also while the broker counts as away, and wait: for what is in memory, on disk and left by killed processes.

        Returns:
            Whether the broker has confirmed all of it (but drops).
        """
        return self._outbox.sync(timeout_s)

    def await_receipts(self, timeout_s: float = 10.0) -> bool:
        """Durability "journal": wait until everything on disk is stored or dead-lettered; whether it is."""
        return self._outbox.await_receipts(timeout_s)

    def apublish(self, record: Record, *, occurred_at: datetime | None = None) -> Coroutine[Any, Any, Receipt]:
        """
        Like `publish`, and never blocks the event loop.

        The record is serialised, and its version given, when this is called; it is accepted when it is awaited, or made a task
        of. Where accepting may wait, for room (policy "block") or for the disk (durability "journal"), a thread does it;
        cancelling then does not undo it.
        """
        return self._accept_soon(_upsert(record, occurred_at))

    async def _accept_soon(self, event: bytes) -> Receipt:
        outbox = self._outbox
        if outbox.may_wait:
            return receipt_of(outbox.epoch, await asyncio.to_thread(outbox.accept, event), outbox.answers)
        return receipt_of(outbox.epoch, outbox.accept(event), outbox.answers)

    def barrier(self, timeout_s: float = 10.0) -> bool:
        """
        Wait until everything published before it in this process has ended, dead letters and drops included.

        Returns:
            Whether it has, in time. Then what could be stored is committed, and to be read.

        Raises:
            ProducerClosed: After `close()`.
        """
        return self._outbox.answers.barrier(timeout_s)

    def status(self) -> Status:
        """How far this process's producer is. Cheap."""
        return self._outbox.status()

    def close(self, timeout_s: float | None = None) -> bool:
        """
        Send the rest, say that it was the last, and end. Closing twice is fine.

        Args:
            timeout_s: None takes `exit_deadline_s`. What is not confirmed by then goes to disk, where the next producer of the
                folder finds it. With durability "memory", or when the disk refuses, it is dropped: counted in
                `status().dropped` and told to `on_drop`. The worker's ledger cannot learn that, for nothing more is sent: there
                these events are missing, not dropped.

        Returns:
            Whether everything was confirmed.
        """
        outbox = self._outbox
        outbox.begin_close(timeout_s)
        return outbox.finish_close(outbox.options.exit_deadline_s if timeout_s is None else timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Nobody can publish any more: let the thread do what is left, and end. Not there when __init__ refused its arguments.
        outbox = getattr(self, "_outbox", None)
        if outbox is not None:
            outbox.leave()

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a Producer cannot be pickled: create one in each process, or fork")

    def renew(self) -> None:
        """In a forked child, before anything else: start anew."""
        parents = self._outbox
        self._outbox = Outbox(parents.options, self._broker, parents.address)
        if parents.buffer.is_closing:
            self._outbox.begin_close()
        parents.leave_to_parent()


def _check_folder(folder: Path) -> None:
    """A journal without a disk is none: that is said at once, and not by dropping every event."""
    try:
        prepare(folder)
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as exc:
        raise ValueError(f"durability 'journal': the spool folder {folder} cannot be made: {exc.strerror}") from None
    if not is_writable:
        raise ValueError(f"durability 'journal': the spool folder {folder} cannot be written")


def _upsert(record: Record, occurred_at: datetime | None) -> bytes:
    try:
        data = record.to_json()
    except AttributeError:
        raise TypeError(f"publish takes a Record, not {type(record).__name__}") from None
    return _event(record.__record__.type, "upsert", data, occurred_at)


def _event(type_name: str, op: Op, data: bytes, occurred_at: datetime | None) -> bytes:
    if len(data) > MAX_RECORD_BYTES:
        raise RecordTooLarge(
            f"{type_name}: {len(data)} bytes, over the limit of {MAX_RECORD_BYTES}; put the payload into object storage"
        )
    return encode_event(type_name, op, process_clock.next_version() if occurred_at is None else version_of(occurred_at), data)
