"""Wait until records are in PostgreSQL, where the next request must see them."""

import json
import os
from pathlib import Path

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession, TranslationTask

if __name__ == "__main__":
    stack = Path(".penstock/stack.json")  # where `penstock up` says what runs here
    broker_url = os.environ.get("PENSTOCK_BROKER_URL") or json.loads(stack.read_text())["broker_url"]
    with Producer(broker_url, name="example") as producer:
        receipt = producer.publish(TranslationSession(session_id="s-2"))
        outcome = receipt.wait(timeout_s=10)
        print("the session:", outcome)  # noqa: T201  # stored; or timeout, while the broker or the database is away

        for number in range(1_000):
            producer.publish(TranslationTask(task_id=f"t-{number}", session_id="s-2", sequence=number))
        has_ended = producer.barrier(timeout_s=10)
        print("all thousand have ended:", has_ended)  # noqa: T201
