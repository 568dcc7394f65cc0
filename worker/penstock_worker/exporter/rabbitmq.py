"""The look at RabbitMQ: what a passive declaration of the queues tells. It hands a message out, or says nothing of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from amqp.exceptions import AMQPError, NotFound

from penstock_producers.transports.tls import broker_connection
from penstock_schemas.topology import queues
from penstock_worker.settings import Settings
from penstock_worker.store.measures import Figures

__all__ = ["RabbitLook"]

#: Seconds that one answer may take, and a connection attempt.
ANSWER_S = 1.5


class RabbitLook:
    """The `Look` at RabbitMQ. Its connection stays open from look to look, and is made anew after an error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Any = None

    def take(self) -> Figures:
        """See `Look`."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            return self._count()
        except (AMQPError, OSError):
            self.close()
            raise

    def give_up(self) -> None:
        """See `Look`. Every answer has its own time limit."""

    def close(self) -> None:
        """See `Look`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(AMQPError, OSError):
                connection.collect()

    def _count(self) -> Figures:
        waiting = consumers = 0
        for name in queues(self._settings.queue):
            with suppress(NotFound), self._connection.channel() as channel:  # not declared yet: empty
                found = channel.queue_declare(name, passive=True)
                waiting += int(found.message_count)
                consumers += int(found.consumer_count) if name == self._settings.queue else 0
        return {"penstock_queue_messages": {"waiting": waiting}, "penstock_queue_consumers": consumers}

    def _connect(self) -> Any:
        """Without heartbeats: nobody would answer the broker's between two looks."""
        timeouts = {"read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
        client = broker_connection(self._settings.broker, heartbeat=0, connect_timeout=ANSWER_S, transport_options=timeouts)
        return client.transport.establish_connection()
