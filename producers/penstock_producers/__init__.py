"""
What a service imports to publish records.

Read in this order: producer (the interface), outbox (one process's share of it), buffer, sender, transports.
"""

from penstock_producers.default import configure, default_producer, publish
from penstock_producers.errors import BufferFull, NotConfigured, ProducerClosed, ProducerError, TransportError
from penstock_producers.options import Policy
from penstock_producers.producer import Producer
from penstock_producers.receipt import Receipt
from penstock_producers.status import Status

__all__ = [
    "BufferFull",
    "NotConfigured",
    "Policy",
    "Producer",
    "ProducerClosed",
    "ProducerError",
    "Receipt",
    "Status",
    "TransportError",
    "configure",
    "default_producer",
    "publish",
]
