"""
The exporter: one process that looks at database and broker for all, and tells Prometheus what it sees.

Reading order: `asked` (one look at a time, kept for a while, never waited for too long), what is looked at (`database`,
`redis_broker`, `rabbitmq`), `collector` (from looks to metrics). What PostgreSQL is asked is `penstock_worker.store.measures`.
"""
