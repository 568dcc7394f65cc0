"""
Every metric, once: what is counted, by whom, and with which labels.

Code makes its metrics from this list and from nowhere else; `docs/metrics.md`, the dashboards and the alert rules in `deploy/`
use its names, and a test compares them. Names and units follow Prometheus' rules: base units, counters end in `_total`.
(https://prometheus.io/docs/practices/naming/)

Who tells a metric, is its `process`:

| process  | how                                                                                 | how many tell it      |
|----------|-------------------------------------------------------------------------------------|-----------------------|
| worker   | `/metrics` of PENSTOCK_PROBE_PORT, by its main process, for its children too         | each worker its own   |
| beat     | `/metrics` of PENSTOCK_PROBE_PORT                                                    | each beat its own     |
| exporter | `penstock exporter`: what database and broker say, looked at once for all            | one, or equal ones    |
| producer | `penstock_producers.metrics.collect_from(producer)`, among the service's own metrics | each producer its own |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "Kind", "Metric", "Process", "metric"]

Kind = Literal["counter", "gauge", "histogram"]
Process = Literal["worker", "beat", "exporter", "producer"]

#: Bounds of histograms, in seconds and in events. The last one is infinity, as everywhere in Prometheus.
LAG_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
BATCH_EVENTS = (1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 50_000.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """
    Args:
        name: As Prometheus shows it; a histogram's is followed by `_bucket`, `_sum` and `_count` there.
        process: Who tells it.
        help: What it is, in a line.
        labels: In this order. Never `job` or `instance`: these are what Prometheus itself puts on all that it scrapes.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: Kind
    process: Process
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def metric(name: str) -> Metric:
    """
    The metric of a name.

    Raises:
        KeyError: There is none.
    """
    return _BY_NAME[name]


METRICS = (
    # -- worker: events and batches
    Metric("penstock_events_total", "counter", "worker", "Events by type and how they ended", ("type", "outcome")),
    Metric("penstock_messages_total", "counter", "worker", "Messages that the broker has delivered to this worker"),
    Metric("penstock_batches_total", "counter", "worker", "Batches by what closed them and how they ended", ("trigger", "end")),
    Metric("penstock_batch_events", "histogram", "worker", "Events of a batch", buckets=BATCH_EVENTS),
    Metric("penstock_batch_seconds", "histogram", "worker", "From the pool's hands to its answer", buckets=STAGE_S),
    Metric("penstock_batch_stage_seconds", "histogram", "worker", "The stages of writing a batch", ("stage",), STAGE_S),
    Metric("penstock_commit_lag_seconds", "histogram", "worker", "From publish to commit, by event", (), LAG_S),
    # -- worker: how it is
    Metric("penstock_worker_paused", "gauge", "worker", "1 while it waits for the database"),
    Metric("penstock_worker_pauses_total", "counter", "worker", "Times that it began to wait for the database"),
    Metric("penstock_worker_consuming", "gauge", "worker", "1 while it takes messages"),
    Metric("penstock_worker_stalled", "gauge", "worker", "1 while it stands still and should not"),
    Metric("penstock_worker_ready", "gauge", "worker", "What /ready says"),
    Metric("penstock_worker_held_messages", "gauge", "worker", "Messages in its hands, not acknowledged"),
    Metric("penstock_worker_buffered_bytes", "gauge", "worker", "Bytes that wait to become a batch"),
    Metric("penstock_worker_batches", "gauge", "worker", "Batches in its hands: ready or running", ("state",)),
    Metric("penstock_worker_children", "gauge", "worker", "Processes of its pool"),
    Metric("penstock_worker_lost_children_total", "counter", "worker", "Processes of its pool that died at work"),
    Metric("penstock_worker_last_batch_timestamp_seconds", "gauge", "worker", "When the last batch was committed; 0 before"),
    Metric("penstock_worker_started_timestamp_seconds", "gauge", "worker", "When it started"),
    Metric("penstock_build_info", "gauge", "worker", "Always 1", ("version",)),
    # -- beat
    Metric("penstock_beat_leading", "gauge", "beat", "1 while this beat is the one that sends"),
    Metric("penstock_beat_last_tick_timestamp_seconds", "gauge", "beat", "When it last looked at the schedule"),
    Metric("penstock_beat_runs_sent_total", "counter", "beat", "Runs that it has sent", ("name",)),
    # -- exporter: can it look at all
    Metric("penstock_exporter_up", "gauge", "exporter", "1 if it could be asked: database, broker", ("of",)),
    Metric("penstock_exporter_look_seconds", "gauge", "exporter", "How long the last look took", ("of",)),
    # -- exporter: the broker
    Metric("penstock_queue_messages", "gauge", "exporter", "Messages: waiting, or held by workers", ("state",)),
    Metric("penstock_queue_oldest_seconds", "gauge", "exporter", "Age of the oldest waiting message; absent on RabbitMQ"),
    Metric("penstock_queue_consumers", "gauge", "exporter", "Workers that consume; absent on Redis"),
    Metric("penstock_redis_memory_bytes", "gauge", "exporter", "Memory that Redis uses"),
    Metric("penstock_redis_memory_limit_bytes", "gauge", "exporter", "maxmemory; 0 is no limit"),
    Metric("penstock_redis_evicted_keys_total", "counter", "exporter", "Keys that Redis has thrown away: lost messages"),
    Metric("penstock_redis_evicts", "gauge", "exporter", "1 if its policy allows it to throw keys away"),
    Metric("penstock_redis_persists", "gauge", "exporter", "1 if it appends to a file and the last write to it was fine"),
    Metric("penstock_redis_clients", "gauge", "exporter", "Connections to Redis"),
    Metric("penstock_redis_ping_seconds", "gauge", "exporter", "How long one PING took"),
    # -- exporter: what is ours in the database
    Metric("penstock_schema_current", "gauge", "exporter", "1 if all migrations are in place"),
    Metric("penstock_dead_letters", "gauge", "exporter", "Letters by state: dead, held", ("state",)),
    Metric("penstock_dead_letters_oldest_seconds", "gauge", "exporter", "Age of the oldest one by state", ("state",)),
    Metric("penstock_ledger_missing_events", "gauge", "exporter", "Events that the last audit found nowhere"),
    Metric("penstock_ledger_missing_producers", "gauge", "exporter", "Producers' epochs with such events"),
    Metric("penstock_producers_seen", "gauge", "exporter", "Producers' epochs that spoke in the last five minutes"),
    Metric("penstock_incomplete_records", "gauge", "exporter", "What recovery knows of, by type and state", ("type", "state")),
    Metric("penstock_job_last_start_timestamp_seconds", "gauge", "exporter", "When the last run began", ("name",)),
    Metric("penstock_job_last_success_timestamp_seconds", "gauge", "exporter", "When the last good run began", ("name",)),
    Metric("penstock_job_last_seconds", "gauge", "exporter", "How long the last ended run took", ("name",)),
    Metric("penstock_job_failed", "gauge", "exporter", "1 if the last ended run failed", ("name",)),
    Metric("penstock_job_overdue_seconds", "gauge", "exporter", "By how much its next run is late; 0 if it is not", ("name",)),
    Metric("penstock_beat_leader", "gauge", "exporter", "1 if some beat leads"),
    # -- exporter: PostgreSQL
    Metric("penstock_database_bytes", "gauge", "exporter", "Size of the database"),
    Metric("penstock_table_bytes", "gauge", "exporter", "Size of a table with its indexes, at the last disk job", ("table",)),
    Metric("penstock_database_connections", "gauge", "exporter", "Connections by what they do", ("state",)),
    Metric("penstock_database_connections_limit", "gauge", "exporter", "max_connections less those kept for superusers"),
    Metric("penstock_database_lock_waits", "gauge", "exporter", "Connections that wait for a lock"),
    Metric("penstock_database_slow_queries", "gauge", "exporter", "Statements that have been running for over a second"),
    Metric("penstock_database_oldest_transaction_seconds", "gauge", "exporter", "Age of the oldest open transaction"),
    Metric("penstock_database_blocks_total", "counter", "exporter", "Blocks read: from cache, or from outside", ("source",)),
    Metric("penstock_database_transactions_total", "counter", "exporter", "Transactions by end: commit, rollback", ("end",)),
    Metric("penstock_database_deadlocks_total", "counter", "exporter", "Deadlocks"),
    # -- producer
    Metric("penstock_producer_accepted_total", "counter", "producer", "Events that were given a number", ("producer",)),
    Metric("penstock_producer_confirmed_total", "counter", "producer", "Events that the broker has confirmed", ("producer",)),
    Metric("penstock_producer_dropped_total", "counter", "producer", "Events given up, by reason", ("producer", "reason")),
    Metric("penstock_producer_pending_events", "gauge", "producer", "Neither confirmed nor dropped", ("producer",)),
    Metric("penstock_producer_pending_bytes", "gauge", "producer", "Bytes of those in memory", ("producer",)),
    Metric("penstock_producer_spooled_events", "gauge", "producer", "Events on disk, not confirmed", ("producer",)),
    Metric("penstock_producer_unreceipted_events", "gauge", "producer", "In the journal, not committed", ("producer",)),
    Metric("penstock_producer_oldest_pending_seconds", "gauge", "producer", "How long the oldest one waits", ("producer",)),
    Metric("penstock_producer_breaker_open", "gauge", "producer", "1 while the broker counts as away", ("producer",)),
    Metric("penstock_producer_failures", "gauge", "producer", "Attempts to send that failed in a row", ("producer",)),
    Metric("penstock_producer_sync_seconds", "gauge", "producer", "From acceptance to confirm, lately", ("producer",)),
)

_BY_NAME = {one.name: one for one in METRICS}
