"""A record type of your own, and its first event."""

import json
import os
from pathlib import Path

from penstock_producers import Producer
from penstock_schemas import Declaration, Record


class Invoice(Record):
    __record__ = Declaration(type="billing.invoice", table="billing.invoices", key="invoice_id")

    invoice_id: str
    customer: str | None = None
    total_cents: int | None = None
    is_paid: bool | None = None


if __name__ == "__main__":
    stack = Path(".penstock/stack.json")  # where `penstock up` says what runs here
    broker_url = os.environ.get("PENSTOCK_BROKER_URL") or json.loads(stack.read_text())["broker_url"]
    with Producer(broker_url, name="billing") as producer:
        producer.publish(Invoice(invoice_id="2026-17", customer="Ada", total_cents=12_900, is_paid=False))
        producer.publish(Invoice(invoice_id="2026-17", is_paid=True))  # later: only what has changed
