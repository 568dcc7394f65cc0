"""
The queues on RabbitMQ, as both sides declare them; an equal declaration is what lets either side start first.

In front of the queue of events is an exchange of its own, which the worker declares: for a user who may publish events and
nothing else. Who may write to the default exchange may write into every queue, those of Celery's tasks and remote control too.

A quorum queue, because it survives the loss of a node. The delivery limit is as good as none (unset it is 20 on RabbitMQ 4, and
a message above it is dropped; -1 is refused by 3.10): a message that cannot be stored becomes a dead letter in PostgreSQL by
Penstock's own count. Whatever the broker dead-letters all the same goes to a second queue, which the worker consumes too.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CHANGES_EXCHANGE", "DELIVERY_LIMIT", "dead_queue", "publishers_exchange", "queues"]

#: The topic exchange on which the worker's side tells services what has changed, on both brokers.
CHANGES_EXCHANGE = "penstock.changes"
DELIVERY_LIMIT = 1_000_000


def dead_queue(queue: str) -> str:
    """Where RabbitMQ puts what it will not deliver any more."""
    return f"{queue}.dead"


def publishers_exchange(queue: str) -> str:
    """The direct exchange from which messages reach this queue, by its name, and no other one."""
    return f"{queue}.publish"


def queues(queue: str) -> dict[str, dict[str, Any]]:
    """Arguments of `queue_declare` by queue name; both queues are durable and bound to the default exchange."""
    return {
        dead_queue(queue): {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT},
        queue: {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_queue(queue),
            "x-dead-letter-strategy": "at-most-once",
        },
    }
