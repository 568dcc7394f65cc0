"""
One producer process: publishes events at a steady rate until SIGTERM, and logs each of them before and after.

    python -m tests.chaos.writer URL --log FILE --mark w1 --rate 60 ...
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from penstock_producers import Producer
from tests.chaos.events import RECORD_CLASSES, Draft, Drafts
from tests.chaos.log import Log

__all__ = ["LoggedProducer", "main"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAUSE_S = 0.01
#: Seconds between two words of the producer about itself.
_TELL_S = 0.3


class LoggedProducer:
    """A producer whose every event is in a log; for one thread."""

    def __init__(self, producer: Producer, log: Log) -> None:
        self.producer, self._log = producer, log
        self._epoch = str(producer.status().epoch)
        self._seq = 0

    def publish(self, draft: Draft) -> None:
        """Log, publish, log."""
        self._log.intend(self._epoch, self._seq, draft, time.time())
        occurred_at = _EPOCH + timedelta(microseconds=draft.version)
        record_class = RECORD_CLASSES[draft.type]
        if draft.op == "delete":
            receipt = self.producer.delete(record_class, **draft.data, occurred_at=occurred_at)
        else:
            receipt = self.producer.publish(record_class.model_validate(draft.data), occurred_at=occurred_at)
        self._log.accept(receipt.seq)
        self._seq += 1

    def tell(self) -> None:
        """Put the producer's own word into the log."""
        status = self.producer.status()
        self._log.tell(accepted=status.accepted, dropped=dict(status.dropped), unreceipted=status.unreceipted)


def main() -> None:
    """Run until SIGTERM, then close in order."""
    args = _arguments()
    is_ended = False

    def end(*_: object) -> None:
        nonlocal is_ended
        is_ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    writer = LoggedProducer(make_producer(args.url, args.mark, args.durability, args.spool, args.room), Log(args.log))
    drafts = Drafts(random.Random(args.seed), args.mark, args.started_at, time.time, args.culprit_one_in)
    began, published, told_at = time.monotonic(), 0, 0.0
    while not is_ended:
        now = time.monotonic()
        due = min(int((now - began) * args.rate), args.events or sys.maxsize)
        for _ in range(min(due - published, 50)):
            writer.publish(drafts.next())
            published += 1
        if due - published > 200:
            # The machine was slower than the rate: what was missed is not made up for.
            began, published = now, 0
        if now - told_at > _TELL_S:
            told_at = now
            writer.tell()
        time.sleep(_PAUSE_S)
    writer.producer.close(args.close_s)
    writer.tell()


def make_producer(url: str, name: str, durability: str, spool: Path, room: int | None = None) -> Producer:
    """
    A producer that tries again soon.

    Args:
        room: Bytes that its spool may take, and hardly any memory: it will run out.
    """
    options: dict[str, Any] = {"durability": durability, "spool_folder": spool}
    if room:
        options |= {"spool_max_bytes": room, "max_events": 50}
    return Producer(url, name=name, linger_s=0.02, batch_events=10, timeout_s=3, retry_max_s=1, exit_deadline_s=20, **options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--mark", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--durability", required=True)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--events", type=int, help="publish so many and wait; no end by default")
    parser.add_argument("--room", type=int)
    parser.add_argument("--started-at", type=float, required=True)
    parser.add_argument("--culprit-one-in", type=int, default=100)
    parser.add_argument("--close-s", type=float, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
