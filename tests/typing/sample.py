"""
A service as a user writes it. mypy (strict) and pyright read this file; nothing runs it.

Lines with `type: ignore` are mistakes that the checkers must find: with `warn_unused_ignores` a mistake not found is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, assert_type
from uuid import UUID

from pydantic import AwareDatetime

from penstock_producers import Policy, Producer, Receipt, Status
from penstock_producers.metrics import collect_from
from penstock_producers.testing import MemoryProducer, PublishedEvent
from penstock_schemas import Declaration, Index, Lifecycle, Max, Min, Record


class Invoice(Record):
    """A record type of the user's own."""

    __record__ = Declaration(
        type="billing.invoice",
        table="billing.invoices",
        key=("tenant", "number"),
        lifecycle=Lifecycle("status", terminal=("paid",), moves=("paid_at",)),
        indexes=[Index("customer_id")],
    )

    tenant: str
    number: int
    customer_id: UUID | None = None
    status: Literal["open", "paid"] | None = None
    total_cents: int | None = None
    reminders: Max[int] | None = None
    issued_at: Min[AwareDatetime] | None = None
    paid_at: AwareDatetime | None = None


def on_drop(count: int, reason: str) -> None:
    print(count, reason)


policy: Policy = "drop_oldest"

with Producer("redis://localhost:6379/0", name="billing", policy=policy, on_drop=on_drop) as producer:
    assert_type(producer, Producer)
    assert_type(collect_from(producer), Callable[[], None])
    invoice = Invoice(tenant="a", number=17, status="open", issued_at=datetime.now(UTC))
    assert_type(invoice.reminders, int | None)
    assert_type(invoice.issued_at, datetime | None)

    receipt = producer.publish(invoice)
    assert_type(receipt, Receipt)
    assert_type((receipt.event_id, receipt.epoch, receipt.seq), tuple[str, UUID, int])
    assert_type(producer.publish_many([invoice, Invoice(tenant="a", number=18)]), list[Receipt])
    assert_type(producer.publish(invoice, occurred_at=datetime(2001, 1, 1, tzinfo=UTC)), Receipt)
    assert_type(producer.delete(Invoice, "a", 17), Receipt)
    assert_type(producer.delete(Invoice, tenant="a", number=17), Receipt)
    assert_type(producer.flush(timeout_s=5), bool)
    assert_type(producer.status(), Status)
    assert_type(producer.status().is_synced, bool)

    Producer("redis://localhost", policy="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Producer("redis://localhost", unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    producer.publish({"tenant": "a"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    producer.publish(invoice, occurred_at=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    producer.delete(invoice)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Invoice(tenant="a", number="seventeen")  # pyright: ignore[reportArgumentType]  # mypy allows what pydantic may convert
    Invoice(tenant="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_of_the_user() -> None:
    """How a service tests what it publishes."""
    twin = MemoryProducer(policy="raise")
    service(twin)
    assert_type(twin.events, list[PublishedEvent])
    assert [event.data["number"] for event in twin.events] == [17]


def service(publisher: Producer) -> None:
    """A service takes a `Producer`; the twin is one."""
    publisher.publish(Invoice(tenant="a", number=17))
