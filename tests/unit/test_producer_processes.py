"""What happens to producers when their process forks or ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock_producers import ProducerClosed
from penstock_producers.testing import MemoryProducer
from tests.producing import in_child
from tests.records import Pair

# Python 3.12 warns at every fork under threads; that it is safe is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PAIR = Pair(tenant="a", number=1)

#: Programs write what reaches their transport to a file, one line per envelope.
PROGRAM = """
import json, os, sys, time
from penstock_producers import Producer, TransportError
from penstock_producers.testing import MemoryBroker
from tests.records import Pair

class FileTransport:
    def send(self, envelopes, on_confirmed):
        for envelope in envelopes:
            with open(sys.argv[1], "ab") as file:
                told = {"pid": os.getpid(), "epoch": str(envelope.epoch), "seq": envelope.seq,
                        "count": len(envelope.events), "closed": envelope.is_closed}
                file.write(json.dumps(told).encode() + b"\\n")
            on_confirmed(envelope)
    def close(self): pass
    def forget(self): pass

class Away(FileTransport):
    def send(self, envelopes, on_confirmed):
        raise TransportError("away")

def publish(producer, count=3):
    for number in range(count):
        producer.publish(Pair(tenant="a", number=number))

producer = Producer("redis://unused", linger_s=1000, broker=MemoryBroker(FileTransport()))
"""


def run_program(code: str, folder: Path, within_s: float = 120) -> list[dict[str, Any]]:
    told = folder / "told.jsonl"
    program = folder / "program.py"
    program.write_text(PROGRAM + textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    subprocess.run([sys.executable, str(program), str(told)], check=True, timeout=within_s, env=environment)
    return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


def brief(told: list[dict[str, Any]]) -> list[tuple[int, int, bool]]:
    return [(envelope["seq"], envelope["count"], envelope["closed"]) for envelope in told]


def test_a_forked_child_starts_anew_and_the_parents_events_stay_the_parents() -> None:
    with MemoryProducer(linger_s=1_000) as producer:
        producer.publish_many([PAIR, PAIR])
        epoch = str(producer.status().epoch)

        def child() -> dict[str, Any]:
            before = producer.status()
            receipt = producer.publish(PAIR)
            seqs = [event.seq for event in producer.events]
            producer.close()
            return {
                "epoch": str(receipt.epoch),
                "before": [before.accepted, before.pending_writes, before.is_sending],
                "seqs": seqs,
                "closed": producer.transport.envelopes[-1].is_closed,
            }

        told = in_child(child)
        assert told == {"epoch": told["epoch"], "before": [0, 0, False], "seqs": [0], "closed": True}
        assert told["epoch"] != epoch
        assert [event.seq for event in producer.events] == [0, 1]


def test_a_fork_while_threads_publish_does_not_deadlock_the_child() -> None:
    with MemoryProducer(batch_events=3) as producer:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                producer.publish(PAIR)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert in_child(lambda: [producer.publish(PAIR).seq, producer.flush(60), producer.close(60)]) == [0, True, True]
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        assert [event.seq for event in producer.events] == list(range(producer.status().accepted))


def test_a_grandchild_too() -> None:
    with MemoryProducer() as producer:
        producer.publish(PAIR)
        epochs = [str(producer.status().epoch), *in_child(lambda: [_epoch(producer), in_child(lambda: _epoch(producer))])]
        assert len(set(epochs)) == 3


def _epoch(producer: MemoryProducer) -> str:
    return str(producer.publish(PAIR).epoch)


def test_a_closed_producer_is_closed_in_the_child() -> None:
    producer = MemoryProducer()
    producer.publish(PAIR)
    producer.close()

    def child() -> str:
        try:
            producer.publish(PAIR)
        except ProducerClosed as exc:
            return str(exc)
        return "published"

    assert in_child(child) == "the producer is closed"


def test_versions_of_a_child_go_on() -> None:
    with MemoryProducer() as producer:
        producer.publish(PAIR)
        version = producer.events[0].version
        assert in_child(lambda: (producer.publish(PAIR), producer.events[0].version)[1]) > version


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "threading_too()"])
def test_a_program_that_ends_sends_its_tail(end: str, tmp_path: Path) -> None:
    code = f"""
    import threading
    def threading_too():
        threading.Thread(target=lambda: (time.sleep(0.05), publish(producer, 2))).start()
    publish(producer)
    {end}
    """
    told = brief(run_program(code, tmp_path))
    assert told == ([(0, 5, False), (5, 0, True)] if "threading" in end else [(0, 3, False), (3, 0, True)])


def test_a_program_that_fails_sends_its_tail(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_program("publish(producer)\nsys.stderr = None\nraise RuntimeError", tmp_path)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert brief(told) == [(0, 3, False), (3, 0, True)]


def test_several_producers_share_one_deadline_at_the_end(tmp_path: Path) -> None:
    code = """
    producers = [Producer("redis://unused", broker=MemoryBroker(Away()), exit_deadline_s=1) for _ in range(20)]
    for other in producers:
        publish(other)
    publish(producer)
    started = time.monotonic()
    import atexit
    from penstock_producers import processes
    atexit.unregister(processes._close_all)
    processes._close_all()
    assert time.monotonic() - started < 12, time.monotonic() - started
    """
    assert brief(run_program(code, tmp_path)) == [(0, 3, False), (3, 0, True)]


def test_what_is_published_when_no_thread_can_be_started_is_sent_all_the_same(tmp_path: Path) -> None:
    code = """
    import threading
    def refuse(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")
    threading.Thread.start = refuse
    import logging
    logging.disable()
    publish(producer)
    """
    assert brief(run_program(code, tmp_path)) == [(0, 3, False), (3, 0, True)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_send_their_tail(method: str, tmp_path: Path) -> None:
    code = f"""
    import multiprocessing, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    def work():
        publish(producer, 2)
    if __name__ == "__main__":
        publish(producer)
        context = multiprocessing.get_context({method!r})
        children = [context.Process(target=work) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
    """
    told = run_program(code, tmp_path)
    by_epoch: dict[str, list[tuple[int, int, bool]]] = {}
    for envelope in told:
        by_epoch.setdefault(envelope["epoch"], []).extend(brief([envelope]))
    assert sorted(by_epoch.values()) == [[(0, 2, False), (2, 0, True)]] * 2 + [[(0, 3, False), (3, 0, True)]]
    assert len({envelope["pid"] for envelope in told}) == 3


def test_recycled_children_of_celerys_pool_send_their_tail(tmp_path: Path) -> None:
    """They end by os._exit: neither atexit nor finalizers run, only Celery's signal."""
    code = """
    from billiard.pool import Pool
    from celery.concurrency.prefork import process_destructor
    def work(_):
        publish(producer, 2)
        return os.getpid()
    if __name__ == "__main__":
        pool = Pool(1, maxtasksperchild=1, on_process_exit=process_destructor)
        pids = [pool.apply_async(work, (None,)).get(60) for _ in range(2)]
        assert len(set(pids)) == 2
        pool.close()
        pool.join()
    """
    assert sorted(brief(run_program(code, tmp_path))) == [(0, 2, False)] * 2 + [(2, 0, True)] * 2


def test_a_killed_program_ends_at_once(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "publish(producer)\nprint('ready', flush=True)\ntime.sleep(600)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    process = subprocess.Popen([sys.executable, str(program), str(tmp_path / "told")], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()
