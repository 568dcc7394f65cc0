"""
A look into the queue of events that takes nothing out of it.

Redis and Valkey can be read, so there it is known which events wait, by the headers of their messages. RabbitMQ hands a message
out or says nothing of it, so there only how many messages wait is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import kombu.exceptions
import redis
from kombu.connection import Connection

from penstock_producers.transports.redis_url import redis_arguments
from penstock_producers.transports.tls import broker_connection
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.answer import SeqRange
from penstock_schemas.topology import queues
from penstock_worker import seq_ranges
from penstock_worker.ask_workers import ANSWER_S, open_workers
from penstock_worker.errors import BrokerAway, ConfigurationError
from penstock_worker.redis_look import Seen, read_messages
from penstock_worker.settings import Settings

__all__ = ["QueueCount", "QueueLook", "count_messages", "find_message", "look_at_queue", "waiting_messages", "workers_stats"]

#: Seconds that workers have to answer where their number is known, so that nobody waits longer than the last one.
ANSWER_ALL_S = 5.0
_SOCKET_TIMEOUT_S = 10
#: Ranges of one epoch that are kept before they are joined, at least: where gaps keep most of them apart, twice as many as that
#: left, so that it is seldom done.
_LOOSE_RANGES = 1_000


@dataclass(slots=True)
class QueueLook:
    """
    What waits.

    Args:
        waiting_messages: Those that no worker has.
        held_messages: Those in workers' hands; None where a worker has not said it.
        is_readable: Whether `events` are all there are. On RabbitMQ none are known.
        events: Event numbers by epoch.
        producers: The names of these epochs' producers.
        high_water: How many numbers each of these epochs has given, as far as its messages say.
    """

    waiting_messages: int
    held_messages: int | None
    is_readable: bool
    events: dict[UUID, list[SeqRange]] = field(default_factory=dict)
    producers: dict[UUID, str] = field(default_factory=dict)
    high_water: dict[UUID, int] = field(default_factory=dict)
    _joined_at: dict[UUID, int] = field(default_factory=dict)

    @property
    def may_hide_events(self) -> bool:
        """Whether an event that is nowhere else may be in a message that could not be looked at."""
        return not self.is_readable and (self.waiting_messages > 0 or self.held_messages != 0)

    def add(self, seen: Seen) -> None:
        """Note a message."""
        ranges = self.events.setdefault(seen.epoch, [])
        self.producers[seen.epoch] = seen.producer
        self.high_water[seen.epoch] = max(self.high_water.get(seen.epoch, 0), seen.seq + seen.count)
        if seen.count:
            ranges.append((seen.seq, seen.seq + seen.count - 1))
        if len(ranges) >= self._joined_at.get(seen.epoch, _LOOSE_RANGES):
            self.events[seen.epoch] = joined = seq_ranges.join(ranges)
            self._joined_at[seen.epoch] = max(_LOOSE_RANGES, 2 * len(joined))


@dataclass(frozen=True, slots=True)
class QueueCount:
    """
    How many messages of a queue wait, and how many workers hold.

    `held` is None where nobody has said it, as of a queue of tasks; `consumers` is None on Redis, which does not know them.
    """

    name: str
    waiting: int
    held: int | None
    consumers: int | None


def look_at_queue(settings: Settings) -> QueueLook:
    """
    Look at all messages, and leave them where they are.

    Raises:
        BrokerAway: It cannot be reached, or does not say.
        ConfigurationError: Its URL cannot be right.
    """
    return _look_at_redis(settings) if settings.broker.startswith("redis") else _look_at_rabbitmq(settings)


def waiting_messages(settings: Settings) -> int:
    """
    How many messages no worker has, without a look at them.

    Raises:
        BrokerAway: It cannot be reached, or does not say.
        ConfigurationError: Its URL cannot be right.
    """
    if settings.broker.startswith("redis"):
        with _redis(settings) as client:
            return int(client.llen(settings.queue))
    with _rabbitmq(settings) as connection:
        return _declared(connection, settings.queue)[0]


def count_messages(settings: Settings, names: Iterable[str]) -> list[QueueCount]:
    """
    How full these queues are; one that is not there is empty.

    Raises:
        BrokerAway: It cannot be reached, or does not say.
        ConfigurationError: Its URL cannot be right.
    """
    if settings.broker.startswith("redis"):
        with _redis(settings) as client:
            return [_count_at_redis(settings, client, name) for name in names]
    with _rabbitmq(settings) as connection:
        return [_count_at_rabbitmq(settings, connection, name) for name in names]


def find_message(settings: Settings, event_id: UUID) -> Seen | None:
    """
    The message that holds an event. None if it does not wait, and on RabbitMQ always.

    Raises:
        BrokerAway: It cannot be reached, or does not say.
        ConfigurationError: Its URL cannot be right.
    """
    if not settings.broker.startswith("redis"):
        return None
    with _redis(settings) as client:
        return next((seen for seen in read_messages(client, settings.queue) if seen.holds(event_id)), None)


def workers_stats(settings: Settings, expected: int | None = None) -> dict[str, dict[str, Any]]:
    """What the workers of this queue say of their ingest steps, by name: those that answer in time, or the first `expected`."""
    with open_workers(settings) as workers:
        return workers.ask("stats", expected=expected, timeout_s=ANSWER_S if expected is None else ANSWER_ALL_S)


def _look_at_redis(settings: Settings) -> QueueLook:
    with _redis(settings) as client:
        waiting, held = client.llen(settings.queue), client.hlen(_leased(settings.queue))
        look = QueueLook(int(waiting), int(held), is_readable=True)
        for seen in read_messages(client, settings.queue):
            look.add(seen)
    look.events = {epoch: seq_ranges.join(ranges) for epoch, ranges in look.events.items()}
    return look


@contextmanager
def _redis(settings: Settings) -> Iterator[redis.Redis]:
    try:
        arguments = redis_arguments(
            settings.broker, socket_timeout_s=_SOCKET_TIMEOUT_S, connect_timeout_s=settings.connect_timeout_s
        )
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    try:
        with redis.Redis(**arguments) as client:
            yield client
    except (redis.RedisError, OSError) as exc:
        raise BrokerAway(_first_line(exc)) from exc


@contextmanager
def _rabbitmq(settings: Settings) -> Iterator[Connection]:
    connection = broker_connection(settings.broker, connect_timeout=settings.connect_timeout_s)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=settings.connect_timeout_s)
        yield connection
    except (*connection.connection_errors, *connection.channel_errors, kombu.exceptions.OperationalError) as exc:
        raise BrokerAway(_first_line(exc)) from exc
    finally:
        connection.release()


def _look_at_rabbitmq(settings: Settings) -> QueueLook:
    with _rabbitmq(settings) as connection:
        waiting, consumers = _declared(connection, settings.queue)
        # Where nobody consumes, whatever was in hand went back.
        held = _held_by_workers(settings, consumers) if consumers else 0
        # Once more: what a worker gave back between the two questions is in neither answer.
        waiting = max(waiting, _declared(connection, settings.queue)[0])
    return QueueLook(waiting, held, is_readable=False)


def _declared(connection: Connection, queue: str) -> tuple[int, int]:
    """Messages that wait in the queue of events and in that of what RabbitMQ would not deliver, and consumers of the first."""
    counts = {name: _count(connection, name) for name in queues(queue)}
    return sum(waiting for waiting, _ in counts.values()), counts[queue][1]


def _count(connection: Connection, name: str) -> tuple[int, int]:
    """Messages that wait in one queue, and its consumers."""
    channel = connection.channel()
    with suppress(*connection.channel_errors):  # not declared yet: empty
        declared = channel.queue_declare(queue=name, passive=True)
        return int(declared.message_count), int(declared.consumer_count)
    return 0, 0


def _count_at_redis(settings: Settings, client: redis.Redis, name: str) -> QueueCount:
    held = int(client.hlen(_leased(name))) if name == settings.queue else None
    return QueueCount(name, int(client.llen(name)), held, consumers=None)


def _count_at_rabbitmq(settings: Settings, connection: Connection, name: str) -> QueueCount:
    waiting, consumers = _count(connection, name)
    held = None
    if name == settings.queue:
        held = _held_by_workers(settings, consumers) if consumers else 0
    return QueueCount(name, waiting, held, consumers)


def _held_by_workers(settings: Settings, consumers: int) -> int | None:
    stats = workers_stats(settings, consumers).values()
    if len(stats) < consumers or any("held_messages" not in step for step in stats):
        return None
    return sum(int(step["held_messages"]) for step in stats)


def _leased(queue: str) -> str:
    """The hash of what workers have in hand, see `ingest.redis_source`."""
    return f"{queue}:leased"


def _first_line(error: BaseException) -> str:
    return say_tls_error(error) or (str(error).splitlines() or [type(error).__name__])[0]
