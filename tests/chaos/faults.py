"""
The faults: each is done, held, undone, and proves that it hit; one that did not is an error of the run, not a pass.

A fault returns what it saw as proof. It says nothing of what the system makes of it: that is the checker's business.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
import psycopg
import redis

from penstock_worker.stack.process import is_alive
from tests.chaos.messages import Messages
from tests.chaos.plan import Fault
from tests.chaos.proxy import Proxy
from tests.chaos.site import Site, Writer
from tests.servers.rabbitmq import RabbitServer

__all__ = ["FAULTS", "Missed", "inject", "until"]

T = TypeVar("T")

#: Seconds for whatever must come to be sooner or later; ends a run that hangs.
PATIENCE_S = 240.0
#: Messages that make a queue worth a wipe, and that are duplicated or reordered at once.
_BACKLOG, _STOLEN = 5, 12
#: Bytes that the spool of a writer may take that is to run out of room.
_ROOM_BYTES = 64 * 1024


class Missed(Exception):  # noqa: N818  # it is a finding
    """Raised when a fault did not hit."""


def until(look: Callable[[], T], within_s: float = PATIENCE_S, what: str = "it") -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise Missed(f"{what} did not come to be within {within_s:.0f} s")
        time.sleep(0.02)
    return seen


def inject(site: Site, fault: Fault) -> str:
    """Do a fault, hold it, undo it; returns the proof that it hit."""
    return FAULTS[fault.kind](site, fault)


# --- the pool


def child_killed(site: Site, fault: Fault) -> str:
    """SIGKILL of a pool child, anywhere or at a place in its batch."""
    before = until(site.children, what="the workers' children")
    if fault.variant != "anywhere":
        _strike(site, fault.variant)
        gone = until(lambda: [child for child in before if not is_alive(child)], what="the end of a child")
        return f"pid {gone[0].pid} killed itself {fault.variant}"
    child = site.draw(fault.number).choice(before)
    child.kill()
    until(lambda: not is_alive(child), what="the end of the child")
    return f"pid {child.pid} is gone"


def _strike(site: Site, failpoint: str) -> None:
    """Arm a failpoint and wait until somebody came to it."""
    site.failpoints.arm(failpoint)
    try:
        until(lambda: site.failpoints.has_struck(failpoint), what=f"a process at {failpoint}")
    finally:
        site.failpoints.path(failpoint).unlink(missing_ok=True)


def worker_killed(site: Site, fault: Fault) -> str:
    """SIGKILL of a worker's main process, anywhere or between commit and ack; then it is started again."""
    if fault.variant == "anywhere":
        worker = site.draw(fault.number).choice(site.workers)
        site.orphans += worker.children()
        worker.kill()
    else:
        site.orphans += [child for each in site.workers for child in each.children()]
        _strike(site, fault.variant)
        (worker,) = until(lambda: [each for each in site.workers if not each.is_running], what="the worker's end")
    pid, code = worker.pid, worker.exit_code
    site.bring_back(worker)
    if code != -signal.SIGKILL:
        raise Missed(f"{worker.name} ended with {code}")
    return f"pid {pid} ended with {code}"


def worker_replaced(site: Site, fault: Fault) -> str:
    """SIGTERM of a worker, as a rolling restart does it; it must end in order."""
    worker = site.draw(fault.number).choice(site.workers)
    until(worker.is_ready, what="a worker that hears signals")
    pid = worker.pid
    worker.send_signal(signal.SIGTERM)
    until(lambda: not worker.is_running, what=f"the orderly end of {worker.name}")
    code = worker.exit_code
    site.bring_back(worker)
    if code != 0:
        raise Missed(f"{worker.name} ended with {code} after SIGTERM")
    return f"pid {pid} ended with 0"


# --- producers


def producer_killed(site: Site, fault: Fault) -> str:
    """SIGKILL of a producer that keeps a journal; the next process of the folder finds what it had not sent."""
    writer: Writer = site.draw(fault.number).choice([writer for writer in site.writers if writer.is_journaled])
    until(lambda: writer.log.stat().st_size > 10_000, what="a producer with events")
    process = writer.process
    process.kill()
    pid, code = process.pid, process.exit_code
    spooled = len(site.spooled(site.spool))
    writer.start()
    if code != -signal.SIGKILL:
        raise Missed(f"{process.name} ended with {code}")
    return f"pid {pid} ended with {code}, {spooled} spools were there"


def spool_full(site: Site, fault: Fault) -> str:
    """A producer whose broker is away runs out of room: what it then drops it counts, and says so when the broker is back."""
    proxy = Proxy(site.to_broker.target_port)
    site.extra_proxies.append(proxy)
    proxy.is_closed = True
    name, is_journaled = f"tight{fault.number}", site.draw(fault.number).random() < 0.5
    writer = Writer(
        site, name, is_journaled=is_journaled, spool=site.folder / f"spool-{name}", port=proxy.port, room=_ROOM_BYTES
    )
    site.past_writers.append(writer)
    try:
        writer.start()
        dropped = until(lambda: _dropped(writer), what="a producer without room")
    finally:
        proxy.is_closed = False
        writer.end()
    return f"{'journal' if is_journaled else 'spill'}, dropped {dropped}"


def _dropped(writer: Writer) -> dict[str, int]:
    if not writer.process.is_running:
        raise Missed(f"{writer.name} ended with {writer.process.exit_code}: {writer.process.last_words()}")
    dropped: dict[str, int] = writer.status().get("dropped", {})
    return dropped


# --- the broker


def broker_restarted(site: Site, fault: Fault) -> str:
    """The broker ends, in order or not, and comes back with its data."""
    pid = site.broker.pid
    if fault.variant == "kill":
        site.broker.kill()
    else:
        site.broker.stop()
    try:
        if psutil.pid_exists(pid) or site.broker.is_running:
            raise Missed(f"pid {pid} is still there")
        until(lambda: site.to_broker.connections + site.from_broker.connections == 0, what="the end of all connections")
    finally:
        site.bring_back(site.broker)
    return f"pid {pid} was gone, no connection was left"


def broker_frozen(site: Site, fault: Fault) -> str:
    """SIGSTOP: connections stay open and nobody answers."""
    site.broker.pause()
    try:
        time.sleep(fault.lasts_s)
        states = {process.status() for process in site.broker.processes()}
    finally:
        site.broker.resume()
    if not states <= {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
        raise Missed(f"processes are {states}")
    return f"stopped for {fault.lasts_s} s"


def broker_cut(site: Site, fault: Fault) -> str:
    """Every connection to the broker is reset."""
    del fault
    return _cut(site.to_broker, site.from_broker)


def _cut(*proxies: Proxy) -> str:
    cut = [until(proxy.cut, what="a connection to cut") for proxy in proxies]
    return f"cut {' and '.join(map(str, cut))} connections"


def broker_delayed(site: Site, fault: Fault) -> str:
    """Every piece of data between clients and the broker is late."""
    return _delay(site, fault, site.to_broker, site.from_broker)


def _delay(site: Site, fault: Fault, *proxies: Proxy) -> str:
    delay_s = round(site.draw(fault.number).uniform(0.1, 0.6), 2)
    before = [proxy.delayed for proxy in proxies]
    for proxy in proxies:
        proxy.delay_s = delay_s
    try:
        time.sleep(fault.lasts_s)
        late = [_count_late(proxy, count) for proxy, count in zip(proxies, before, strict=True)]
    finally:
        for proxy in proxies:
            proxy.delay_s = 0
    return f"{' and '.join(map(str, late))} pieces were {delay_s} s late"


def _count_late(proxy: Proxy, before: int) -> int:
    return until(lambda: proxy.delayed - before, what="late data")


def broker_wiped(site: Site, fault: Fault) -> str:
    """The broker forgets everything while messages wait in it. Their events are noted: spill writers do not send them again."""
    with _backlog(site):
        if site.broker_name == "rabbitmq":
            # What workers have goes back into the queue, and nobody adds to it.
            site.from_broker.is_closed = True
            site.from_broker.cut()
            site.to_broker.hold()
        try:
            with Messages(site.broker_url) as messages:
                gone, untold = messages.wipe(fault.variant)
        finally:
            site.to_broker.release()
            site.from_broker.is_closed = False
    site.wiped.update(gone, untold)
    site.untold.update(untold)
    if not gone:
        raise Missed("there was no event to lose")
    return f"{len(gone)} events are gone"


@contextmanager
def _backlog(site: Site) -> Iterator[None]:
    """Nothing reaches the workers, so that messages wait in the queue."""
    site.from_broker.hold()
    try:
        until(lambda: site.waiting_messages() >= _BACKLOG, what="a backlog")
        yield
    finally:
        site.from_broker.release()


def redis_full(site: Site, fault: Fault) -> str:
    """Redis is at `maxmemory` and evicts nothing."""
    with redis.Redis.from_url(site.broker_url) as client:
        client.config_set("maxmemory", 1)
        try:
            refused = _refusal(client)
            time.sleep(fault.lasts_s)
            refused = refused and _refusal(client)
        finally:
            client.config_set("maxmemory", 0)
    if refused is None:
        raise Missed("Redis took a message")
    return refused


def _refusal(client: redis.Redis) -> str | None:
    try:
        client.lpush("chaos", "is there room?")
    except redis.ResponseError as exc:
        return str(exc)
    return None


def rabbitmq_alarm(site: Site, fault: Fault) -> str:
    """RabbitMQ's memory alarm: it blocks whoever publishes."""
    broker = site.broker
    assert isinstance(broker, RabbitServer)
    broker.limit_memory(1)
    try:
        until(broker.has_alarm, what="the memory alarm")
        time.sleep(fault.lasts_s)
        is_listed = broker.has_alarm()
    finally:
        broker.limit_memory()
    until(lambda: not broker.has_alarm(), what="the end of the alarm")
    if not is_listed:
        raise Missed("the alarm ended by itself")
    return "the alarm was listed"


def messages_duplicated(site: Site, fault: Fault) -> str:
    """Messages are taken off the queue and put back twice, in another order."""
    return _shuffle(site, fault, copies=2)


def messages_reordered(site: Site, fault: Fault) -> str:
    """Messages are taken off the queue, kept for a while, and put back in another order."""
    return _shuffle(site, fault, copies=1)


def _shuffle(site: Site, fault: Fault, copies: int) -> str:
    with Messages(site.broker_url) as messages:
        taken = messages.take(_STOLEN, PATIENCE_S)
        time.sleep(fault.lasts_s)
        put = taken * copies
        site.draw(fault.number).shuffle(put)
        messages.put(put)
    if not taken:
        raise Missed("no message came by")
    return f"took {len(taken)} messages, put back {len(put)}"


# --- the database


def database_crashed(site: Site, fault: Fault) -> str:
    """PostgreSQL's immediate stop, which is a crash: it recovers at the next start."""
    del fault
    pid = site.database.pid
    site.database.send_signal(signal.SIGQUIT)
    until(lambda: not site.database.is_running, what="the database's end")
    _start_database(site)
    return f"pid {pid} was gone, connections were refused"


def database_down(site: Site, fault: Fault) -> str:
    """PostgreSQL is stopped, and away for a while."""
    pid = site.database.pid
    site.database.stop()
    try:
        time.sleep(fault.lasts_s)
    finally:
        _start_database(site)
    return f"pid {pid} was gone for {fault.lasts_s} s, connections were refused"


def _start_database(site: Site) -> None:
    is_away = False
    try:
        psycopg.connect(site.database_url, connect_timeout=5).close()
    except psycopg.OperationalError:
        is_away = True
    site.bring_back(site.database)
    if not is_away:
        raise Missed("the database answered")


def database_cut(site: Site, fault: Fault) -> str:
    """Every connection of the workers to the database is reset."""
    del fault
    return _cut(site.to_database)


def database_delayed(site: Site, fault: Fault) -> str:
    """Every piece of data between workers and database is late."""
    return _delay(site, fault, site.to_database)


FAULTS: dict[str, Callable[[Site, Fault], str]] = {
    function.__name__: function
    for function in (
        child_killed,
        worker_killed,
        worker_replaced,
        producer_killed,
        spool_full,
        broker_restarted,
        broker_frozen,
        broker_cut,
        broker_delayed,
        broker_wiped,
        redis_full,
        rabbitmq_alarm,
        messages_duplicated,
        messages_reordered,
        database_crashed,
        database_down,
        database_cut,
        database_delayed,
    )
}
