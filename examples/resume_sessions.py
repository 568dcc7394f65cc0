"""A service that resumes what another one left behind: it listens, claims, restores, goes on, resolves."""

import socket

import psycopg
from kombu import Exchange, Queue

from penstock_producers import Producer
from penstock_producers.transports.tls import broker_connection
from penstock_schemas import load_registry
from penstock_schemas.records.translation import TranslationSession, TranslationTask
from penstock_worker.errors import PenstockError
from penstock_worker.settings import load_settings
from penstock_worker.store.recovery import Claim, claim, find_incomplete, release, renew, resolve, restore

ME = f"translator@{socket.gethostname()}"
#: Whoever has a session must say something within this time, or others may take it.
LEASE_S = 300
#: One queue for all instances of the service: each announcement reaches one of them, and waits while none runs.
QUEUE = Queue("translator.incomplete", Exchange("penstock.changes", type="topic"), "translation.session.incomplete")


def translate(text: str | None) -> str:
    return (text or "").upper()


def take(database: psycopg.Connection, producer: Producer, recovery: int) -> None:
    """Resume a session, if nobody else does and it has not ended by itself."""
    try:
        taken = claim(database, recovery, by=ME, for_s=LEASE_S)
        if taken is None:
            return
        resume(database, producer, taken)
        if producer.barrier(timeout_s=60):
            resolve(database, recovery, taken.token, outcome="resumed")
            print("resumed", *taken.recovery.key, flush=True)  # noqa: T201
        else:  # the database or the broker is away: it is offered again
            release(database, recovery, taken.token)
    except PenstockError as exc:  # it was deleted, say, or another one has the claim by now
        print("left", recovery, exc, flush=True)  # noqa: T201


def resume(database: psycopg.Connection, producer: Producer, taken: Claim) -> None:
    """Go on with a session; what has been done already is seen in its tasks."""
    (session_id,) = taken.recovery.key
    with restore(database, load_registry(), taken.recovery.type, taken.recovery.key) as restored:
        tasks = [row for _, row in restored.children if row["status"] != "completed"]
    for task in tasks:
        done = {"status": "completed", "translated_text": translate(task["source_text"])}
        producer.publish(TranslationTask(task_id=task["task_id"], session_id=session_id, **done))
        renew(database, taken.recovery.id, taken.token, for_s=LEASE_S)
    producer.publish(TranslationSession(session_id=session_id, status="completed"))


def listen(database: psycopg.Connection, producer: Producer, broker_url: str) -> None:
    def hear(announcement: dict, message: object) -> None:
        take(database, producer, announcement["recovery"])
        message.ack()  # last: what dies before this is announced again in any case

    # Kombu's own Connection(url) would trust everyone over rediss://.
    with broker_connection(broker_url) as connection, connection.Consumer(QUEUE, callbacks=[hear], prefetch_count=1):
        print("listening", flush=True)  # noqa: T201
        for found in find_incomplete(database, type="translation.session"):  # announced when nobody listened
            take(database, producer, found.id)
        while True:
            connection.drain_events()


if __name__ == "__main__":
    settings = load_settings()  # from the environment, or of the `penstock up` that runs here; with passwords and TLS
    with (
        psycopg.connect(settings.database, autocommit=True) as database,
        Producer(settings.broker, name="translator") as producer,
    ):
        listen(database, producer, settings.broker)
