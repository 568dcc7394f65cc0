"""
Wait until a record is in PostgreSQL, where the next request must see it.

Start `penstock up` in one terminal and this in another, in the same folder:

    python examples/read_your_writes.py
"""

from __future__ import annotations

import json
from pathlib import Path

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession, TranslationTask

stack = json.loads(Path(".penstock/stack.json").read_text())
with Producer(stack["broker_url"], name="example") as producer:
    receipt = producer.publish(TranslationSession(session_id="s-2"))
    # stored | superseded | dead | held | fenced | expired | dropped, or timeout while the database or the broker is away.
    print("the session is", receipt.wait(timeout_s=10))

    for number in range(1_000):
        producer.publish(TranslationTask(task_id=f"t-{number}", session_id="s-2", sequence=number))
    print("all that was published before has ended:", producer.barrier(timeout_s=10))
