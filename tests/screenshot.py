"""
The picture of Flower in the README: `python -m tests.screenshot docs/images/flower.png`.

Servers, workers, beat and Flower are run in a folder of their own, and events flow while the picture is taken; a few of them
are bad, so that it shows how those end.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from pathlib import Path

from penstock_worker.settings import Settings
from penstock_worker.stack.up import start_stack
from tests.acceptance.witness import Witness
from tests.browser import open_browser

#: Batches that fill the page.
BATCHES = 13


def take(file: Path, program: str) -> None:
    with tempfile.TemporaryDirectory() as folder, start_stack(Path(folder), Settings()) as stack, open_browser(program) as page:
        assert stack.flower_url is not None
        page.goto(stack.flower_url)
        page.get_by_text("Online").nth(1).wait_for()  # from now on Flower hears of every batch
        is_over = threading.Event()
        flow = threading.Thread(target=publish, args=(Witness(stack.database_url, stack.broker_url), is_over))
        flow.start()
        try:
            page.wait_for_function("many => document.querySelector('#workers-succeeded').innerText >= many", arg=BATCHES)
            page.get_by_role("link", name="Tasks").click()
            page.locator("#tasks-table tbody tr").nth(BATCHES - 1).wait_for()
            page.screenshot(path=file)
        finally:
            is_over.set()
            flow.join()


def publish(witness: Witness, is_over: threading.Event) -> None:
    """Batches of different sizes, one after the other; every third one has two events that cannot be stored."""
    number = 0
    while not is_over.wait(0.1):
        number += 1
        with witness.producer(events_per_message=100) as producer:
            for _ in range(number * 1_237 % 4_000):
                witness.publish_one(producer)
            for _ in range(2 if number % 3 == 0 else 0):
                producer._outbox.accept(b'{"type":"translation.task","op":"upsert","version":1,"data":{"task_id":7}}')
        witness.wait_until_told()


if __name__ == "__main__":
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed; `make setup` as root installs it")
    take(Path(sys.argv[1]), chromium)
