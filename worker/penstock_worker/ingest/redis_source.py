"""
Events from a Redis or Valkey list, as kombu publishers write it.

| key                     | type | meaning                                                   | who writes            | expiry |
|-------------------------|------|-----------------------------------------------------------|-----------------------|--------|
| QUEUE                   | list | waiting messages, kombu's JSON; new ones on the left      | producers, give back  | none   |
| QUEUE:leases            | zset | tag -> when its lease ends, ms of the server's clock      | workers               | none   |
| QUEUE:leased            | hash | tag -> message in a worker's hands                        | workers               | none   |
| QUEUE:redelivered       | hash | sha1 of a message -> how often its lease ran out          | workers               | a day  |

Why not kombu's own consumer: it needs three round trips a message, and a message is lost when the worker dies between taking
it and noting that it did. Here one script does both for many. Why not kombu's `unacked` keys: every kombu consumer of the same
server sweeps those by its own clock and its own timeout, and the shortest of them wins.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
from kombu.asynchronous.timer import Timer

from penstock_producers.transports.redis_url import redis_arguments
from penstock_worker.errors import ConfigurationError
from penstock_worker.ingest.answers import AddressedAnswer
from penstock_worker.ingest.message import RawMessage
from penstock_worker.ingest.redis_answers import RedisAnswers
from penstock_worker.ingest.redis_scripts import SCRIPTS
from penstock_worker.ingest.source import Deliver, Delivery
from penstock_worker.settings import Settings

__all__ = ["RedisSource"]

logger = logging.getLogger(__name__)

#: Messages and bytes of one pop: small enough that the loop turns often, large enough that round trips do not count.
POP_MESSAGES = 1_000
POP_BYTES = 4 * 1024 * 1024
#: Seconds between two pops of a full queue. Not 0: the loop would do ten of them at once, and then sleep for a second unless a
#: pipe or a socket woke it (kombu's `fire_timers`); so it serves those in between, and the children get their batches.
TURN_S = 0.001
#: Seconds between two looks at an empty queue: at least and at most, and between these a part of the silence so far. So events
#: that come every 50 ms wait for 5 ms at most, and a silent queue is looked at twenty times a second.
IDLE_S = (0.001, 0.05)
IDLE_PART = 0.1
#: Seconds until the next look at a queue that Redis refused to look at.
REFUSED_S = 1.0
#: Tags in one call of ack, renew or give back; Redis is blocked meanwhile.
TAGS_PER_CALL = 1_000
_SOCKET_TIMEOUT_S = 10


class RedisSource:
    """
    The `Source` over a Redis list.

    Args:
        settings: Broker, queue and lease.
        timer: The worker's timer.
        owner: Begins this worker's tags; unique among workers.
    """

    def __init__(self, settings: Settings, timer: Timer, owner: str) -> None:
        try:
            arguments = redis_arguments(
                settings.broker, socket_timeout_s=_SOCKET_TIMEOUT_S, connect_timeout_s=settings.connect_timeout_s
            )
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
        self._client = redis.Redis(**arguments, health_check_interval=15)
        self._answers = RedisAnswers(self._client)
        queue = settings.queue
        self._keys = (queue, f"{queue}:leases", f"{queue}:leased", f"{queue}:redelivered")
        self._scripts = {name: self._client.register_script(text) for name, text in SCRIPTS.items()}
        self._timer, self._owner, self._lease_s = timer, owner, settings.lease_s
        self._held: set[str] = set()
        self._late_acks: list[str] = []
        self._pops = 0
        self._silent_since = 0.0
        self._timers: list[Any] = []
        self._next_poll: Any = None
        self._is_open = False

    def start(self, deliver: Deliver, has_room: Callable[[], bool]) -> None:
        """See `Source`."""
        self._deliver, self._has_room = deliver, has_room
        self._refuse_cluster()
        # First what is still ours after a long absence: its leases may have run out, and it would be taken for a dead worker's.
        self._send_acks()
        self._renew()
        self._restore()
        self._cancel_timers()
        self._timers = [
            self._timer.call_repeatedly(self._lease_s / 3, self._renew),
            self._timer.call_repeatedly(self._lease_s / 3, self._restore),
        ]
        self._is_open = True
        self._poll_in(0)

    def wake(self) -> None:
        """See `Source`."""
        if self._is_open and self._next_poll is None:
            self._poll_in(0)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Source`. An ack that does not get through is kept and sent later: it is true whenever it arrives."""
        self._late_acks += [delivery.tag for delivery in deliveries]
        try:
            self._send_acks()
        except redis.RedisError as exc:
            logger.warning("acknowledged later, Redis says: %s", exc, extra={"action": "ack_postponed"})

    def answer(self, answers: Sequence[AddressedAnswer]) -> None:
        """See `Source`."""
        self._answers.send(answers)

    def give_back(self, deliveries: Sequence[Delivery], *, is_suspect: bool = False) -> None:
        """See `Source`."""
        tags = [delivery.tag for delivery in deliveries]
        self._held.difference_update(tags)
        for start in range(0, len(tags), TAGS_PER_CALL):
            self._call("give_back", int(is_suspect), *tags[start : start + TAGS_PER_CALL])

    def abandon(self, deliveries: Sequence[Delivery]) -> None:
        """See `Source`."""
        self._held.difference_update(delivery.tag for delivery in deliveries)

    def pause(self) -> None:
        """See `Source`."""
        self._is_open = False
        self._cancel_poll()

    def resume(self) -> None:
        """See `Source`."""
        self._is_open = True
        self.wake()

    def depth(self) -> int | None:
        """See `Source`."""
        return int(self._client.llen(self._keys[0]))

    def stop(self) -> None:
        """See `Source`. Leases are renewed until `close`, for batches that are still being written."""
        self.pause()

    def close(self) -> None:
        """See `Source`."""
        self._cancel_timers()
        self._client.close()

    def _refuse_cluster(self) -> None:
        try:
            is_cluster = self._client.info("cluster").get("cluster_enabled")
        except redis.ResponseError:
            return  # this user may not ask; a cluster answers the first script with an error of its own
        if is_cluster:
            raise ConfigurationError("Redis Cluster cannot move a batch in one step: use a single Redis or Valkey, or RabbitMQ")

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def _poll_in(self, seconds: float) -> None:
        self._next_poll = self._timer.call_after(seconds, self._poll)

    def _cancel_poll(self) -> None:
        if self._next_poll is not None:
            self._next_poll.cancel()
            self._next_poll = None

    def _poll(self) -> None:
        """One pop; the next one at once if something came, later if not, and by `wake` if there is no room."""
        self._next_poll = None
        if not self._is_open or not self._has_room():
            return
        try:
            self._send_acks()
            deliveries = self._pop()
        except redis.ResponseError as exc:
            # Read-only, busy, no permission ...: the connection is good, so nobody but us would begin again.
            logger.warning("nothing is consumed, Redis says: %s", exc, extra={"action": "pop_refused"})
            self._poll_in(REFUSED_S)
            return
        now = time.monotonic()
        if deliveries:
            self._silent_since = now
            self._deliver(deliveries)
        if self._is_open:
            pause_s = min(max(IDLE_S[0], IDLE_PART * (now - self._silent_since)), IDLE_S[1])
            self._poll_in(TURN_S if deliveries else pause_s)

    def _pop(self) -> list[Delivery]:
        self._pops += 1
        prefix = f"{self._owner}:{self._pops}:"
        found = self._call("pop", POP_MESSAGES, POP_BYTES, prefix, int(self._lease_s * 1000))
        pairs = zip(found[::2], found[1::2], strict=True)
        deliveries = [
            Delivery(RawMessage(body), f"{prefix}{place}", _count_hint(body), int(times))
            for place, (body, times) in enumerate(pairs, start=1)
        ]
        self._held.update(delivery.tag for delivery in deliveries)
        return deliveries

    def _send_acks(self) -> None:
        while self._late_acks:
            tags = self._late_acks[:TAGS_PER_CALL]
            self._call("ack", *tags)
            del self._late_acks[: len(tags)]
            self._held.difference_update(tags)

    def _renew(self) -> None:
        tags = list(self._held)
        for start in range(0, len(tags), TAGS_PER_CALL):
            self._call("renew", int(self._lease_s * 1000), *tags[start : start + TAGS_PER_CALL])

    def _restore(self) -> None:
        count = self._call("restore", TAGS_PER_CALL)
        if count == TAGS_PER_CALL:
            self._timer.call_after(0, self._restore)
        if count:
            logger.warning("%d messages of workers that died went back into the queue", count, extra={"action": "restored"})

    def _call(self, script: str, *args: str | int) -> Any:
        return self._scripts[script](keys=self._keys, args=args)


def _count_hint(wrapper: bytes) -> int:
    """
    The header `count`; 1 where there is none.

    Looked for at both ends only: the body, which is long, is written first by kombu and last by our producers.
    """
    at = wrapper.find(_COUNT, 0, 1_000)
    if at < 0:
        at = wrapper.rfind(_COUNT, max(0, len(wrapper) - 2_000))
    digits = wrapper[at + len(_COUNT) : at + len(_COUNT) + 7] if at >= 0 else b""
    digits = digits.partition(b",")[0].partition(b"}")[0]
    return int(digits) if digits.isdigit() else 1


_COUNT = b'"count": '
