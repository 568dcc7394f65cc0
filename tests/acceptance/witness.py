"""Publishes events, and says from rows, ledger and broker what became of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
import redis
from kombu.connection import Connection

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationTask
from penstock_schemas.topology import queues
from penstock_schemas.wire import QUEUE

__all__ = ["Witness", "until"]

T = TypeVar("T")

#: Seconds between two looks of `until`.
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.2


def until(look: Callable[[], T], within_s: float = 120) -> T:
    """
    Look again and again until there is something to see.

    What takes longer is looked at less often: a look is work for the processor, for which those that are looked at wait.
    """
    deadline = time.monotonic() + within_s
    looked_at = time.monotonic()
    while not (seen := look()):
        now = time.monotonic()
        assert now < deadline, f"nothing to see within {within_s:.0f} s"
        time.sleep(min(max(4 * (now - looked_at), SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
        looked_at = time.monotonic()
    return seen


class Witness:
    """Has published tasks of one producer, or of several one after the other, and looks for them."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._database_url, self._broker_url = database_url, broker_url
        self._epochs: list[str] = []
        self.tasks: dict[str, TranslationTask] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    @contextmanager
    def producer(self, events_per_message: int = 20) -> Iterator[Producer]:
        """A producer whose every event must have reached the broker when the block ends."""
        with Producer(self._broker_url, name="acceptance", batch_events=events_per_message, linger_s=1_000) as producer:
            yield producer
            assert producer.flush(120)
            assert not producer.status().dropped

    def publish(self, count: int, events_per_message: int = 20, text: str = "hello") -> None:
        """Publish tasks that nobody has published yet."""
        with self.producer(events_per_message) as producer:
            for _ in range(count):
                self.publish_one(producer, text)

    def publish_one(self, producer: Producer, text: str = "hello") -> None:
        number = len(self.tasks)
        task = TranslationTask(
            task_id=f"t{number:06d}", session_id=f"s{number // 50}", sequence=number, status="running", source_text=text
        )
        receipt = producer.publish(task)
        self.tasks[task.task_id] = task
        if str(receipt.epoch) not in self._epochs:
            self._epochs.append(str(receipt.epoch))

    @property
    def database_port(self) -> int:
        return int(psycopg.conninfo.conninfo_to_dict(self._database_url)["port"])

    # -- what is there ---------------------------------------------------------------------------------------------------------

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database_url, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(statement.encode(), parameters).fetchall()

    def count_rows(self) -> int:
        """Tasks that anybody but the writer can see."""
        ((count,),) = self.query("SELECT count(*) FROM translation.tasks WHERE _version IS NOT NULL")
        return int(count)

    def count_told(self) -> int:
        """Events in the ledger, each as often as it was told: more than there are events after a redelivery."""
        ((count,),) = self.query("SELECT coalesce(sum(upper(seqs) - lower(seqs)), 0) FROM penstock.ledger")
        return int(count)

    def outcomes(self) -> dict[str, int]:
        """Events by outcome, folded; an event that has two is counted twice."""
        found = self.query(
            "SELECT outcome, sum(upper(part) - lower(part)) FROM (SELECT outcome, unnest(range_agg(seqs)) AS part "
            "FROM penstock.ledger WHERE epoch::text = ANY(%s) GROUP BY epoch, outcome) AS folded GROUP BY outcome",
            self._epochs,
        )
        return {outcome: int(count) for outcome, count in found}

    def reasons(self) -> Counter[tuple[str, str]]:
        """Dead letters by state and reason."""
        return Counter(self.query("SELECT state, reason FROM penstock.dead_letters"))  # type: ignore[arg-type]

    def wait_until_told(self, within_s: float = 120) -> None:
        """Wait until every published event has its outcome."""
        until(lambda: sum(self.outcomes().values()) >= len(self.tasks), within_s)

    def wait_until_closed(self) -> None:
        """Wait until the last word of every producer was heard, a message without events that comes behind all others."""
        closed = "SELECT count(*) = %s FROM penstock.producers WHERE is_closed AND epoch::text = ANY(%s)"
        until(lambda: self.query(closed, len(self._epochs), self._epochs) == [(True,)])

    # -- what must be there ----------------------------------------------------------------------------------------------------

    def assert_all_stored(self, but: int = 0) -> None:
        """Every event has ended once, and the rows are what was published; `but` of them are dead letters."""
        expected = {"stored": len(self.tasks) - but, "dead": but}
        assert self.outcomes() == {outcome: count for outcome, count in expected.items() if count}
        rows = self.query(
            "SELECT task_id, session_id, sequence, status, source_text FROM translation.tasks WHERE _version IS NOT NULL"
        )
        published = {(t.task_id, t.session_id, t.sequence, t.status, t.source_text) for t in self.tasks.values()}
        assert len(rows) == len(self.tasks) - but
        assert set(rows) <= published
        ((letters,),) = self.query("SELECT count(*) FROM penstock.dead_letters")
        assert letters == but

    def left_in_queue(self) -> int:
        """Messages that no worker has."""
        if self._broker_url.startswith("redis"):
            with redis.Redis.from_url(self._broker_url) as client:
                return int(client.llen(QUEUE))
        with Connection(self._broker_url) as connection, connection.channel() as channel:
            return sum(channel.queue_declare(name, passive=True).message_count for name in queues(QUEUE))

    def left_on_broker(self) -> int:
        """Messages that wait, or are noted as a worker's; RabbitMQ has all of them back when no worker runs."""
        noted = 0
        if self._broker_url.startswith("redis"):
            with redis.Redis.from_url(self._broker_url) as client:
                noted = client.zcard(f"{QUEUE}:leases") + client.hlen(f"{QUEUE}:leased") + client.hlen(f"{QUEUE}:redelivered")
        return self.left_in_queue() + int(noted)
