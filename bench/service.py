"""
A service that publishes, as a process of its own: `python -m bench.service WORDS`, with a JSON object as its only word.

It makes its records, says that it is ready, and then, for every line that it is told on its standard input, publishes them once
with a new producer and answers with one line of JSON. It ends with its standard input.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bench.records import build_records
from bench.site import RoundVoid, Site
from penstock_producers import Producer
from penstock_producers.options import Durability
from penstock_schemas import Record

__all__ = ["Service", "service"]

#: How long a producer may take for what is left when the clock has stopped.
_CLOSE_S = 300.0
_END_S = 30.0
_ROOT = Path(__file__).parents[1]


class Service:
    """The bench's side of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._is_ready = False

    def tell(self, word: str) -> None:
        """Begin a round, or go on with it; the first time when its records are made."""
        assert self._process.stdin
        if not self._is_ready:
            self.hear()
            self._is_ready = True
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """
        What it answers.

        Raises:
            RoundVoid: It has ended.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RoundVoid(f"the publishing process ended with {self._process.wait(_END_S)}")
        return json.loads(line)

    def ask(self, word: str) -> Any:
        """Tell and hear."""
        self.tell(word)
        return self.hear()


@contextmanager
def service(place: Site, how: str, events: int, **options: Any) -> Iterator[Service]:
    """
    Start it. It makes its records meanwhile.

    Args:
        place: Where it publishes to; its spool is in the site's folder.
        how: A key of `PUBLISHERS`.
        events: Tasks of a round, see `workload.build_records`.
        options: For the publisher.
    """
    words = json.dumps(
        {"how": how, "events": events, "broker_url": place.broker_url, "spool": str(place.folder / "spool"), **options}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.service", words], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Service(process)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout
        process.stdout.close()


def at_once(producer: Producer, records: Sequence[Record], _options: dict[str, Any]) -> dict[str, Any]:
    """As fast as `publish` takes them; when it began."""
    began = time.perf_counter()
    for record in records:
        producer.publish(record)
    return {"began": began, "publishing_s": time.perf_counter() - began}


def paced(producer: Producer, records: Sequence[Record], options: dict[str, Any]) -> dict[str, Any]:
    """At an even rate; when each was published."""
    published = []
    began = time.perf_counter()
    for number, record in enumerate(records):
        wait = began + number / options["per_s"] - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        published.append(time.perf_counter())
        producer.publish(record)
    return {"published": published}


def in_bursts(producer: Producer, records: Sequence[Record], options: dict[str, Any]) -> dict[str, Any]:
    """
    From several threads in turn, a burst at a time, at an even rate in all; nanoseconds of every call.

    A burst's records are made, by copying, just before it: a request publishes what it has made, and not what has lain in
    memory since long before.
    """
    burst, per_s = options["burst"], options["per_s"]

    def publish(note: Callable[[int], None], number: int, count: int) -> None:
        clock, publish_one = time.perf_counter_ns, producer.publish
        began = time.perf_counter()
        for start in range(number * burst, len(records), count * burst):
            wait = began + start / per_s - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            for record in [record.model_copy() for record in records[start : start + burst]]:
                before = clock()
                publish_one(record)
                note(clock() - before)

    return _timed(options["threads"], publish)


def without_pause(producer: Producer, records: Sequence[Record], options: dict[str, Any]) -> dict[str, Any]:
    """From several threads, as fast as they can; nanoseconds of every call."""

    def publish(note: Callable[[int], None], number: int, count: int) -> None:
        clock, publish_one = time.perf_counter_ns, producer.publish
        for record in records[number::count]:
            before = clock()
            publish_one(record)
            note(clock() - before)

    return _timed(options["threads"], publish)


def _timed(count: int, publish: Callable[[Callable[[int], None], int, int], None]) -> dict[str, Any]:
    """Let each thread begin at the same moment, with where to note durations, its number, and how many there are."""
    parts: list[list[int]] = [[] for _ in range(count)]
    begin = threading.Barrier(count)

    def run(number: int) -> None:
        begin.wait()
        publish(parts[number].append, number, count)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"ns": [duration for part in parts for duration in part], "seconds": time.perf_counter() - began}


PUBLISHERS: dict[str, Callable[[Producer, Sequence[Record], dict[str, Any]], dict[str, Any]]] = {
    "at_once": at_once,
    "paced": paced,
    "in_bursts": in_bursts,
    "without_pause": without_pause,
}


def _main() -> None:
    options = json.loads(sys.argv[1])
    _, records = build_records(options["events"])
    publish = PUBLISHERS[options["how"]]
    # A service has not all its records in memory beforehand; the garbage collector is not to look at them.
    gc.collect()
    gc.freeze()
    _say("ready")
    for line in sys.stdin:
        durability = cast("Durability", line.strip())
        producer = Producer(options["broker_url"], name="bench", durability=durability, spool_folder=options["spool"])
        answer = publish(producer, records, options)
        _say(answer | {"dropped": dict(producer.status().dropped), "accepted": producer.status().accepted})
        # The broker may be away: what is left is sent when the bench says that it is back.
        next(sys.stdin)
        producer.sync(_CLOSE_S)
        producer.close(_CLOSE_S)
        _say(dict(producer.status().dropped))


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    _main()
