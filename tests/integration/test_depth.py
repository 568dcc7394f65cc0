"""How many messages wait, asked on both brokers."""

from __future__ import annotations

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from penstock_worker.ingest.depth import depth_of
from penstock_worker.settings import Settings


def test_it_is_asked_again_and_again(broker_url):
    """Also before anybody has declared the queue: on RabbitMQ that is no answer, which the judge takes for a broker away."""
    depth = depth_of(Settings(broker_url=broker_url))
    before = depth.ask()
    with Producer(broker_url, batch_events=1) as producer:
        producer.publish_many([TranslationSession(session_id=str(number)) for number in range(3)])
        assert producer.flush(60)
        after = depth.ask()
        depth.close()
        again = depth.ask()
    depth.close()

    assert (before, after, again) == (0 if broker_url.startswith("redis") else None, 3, 3)


def test_a_broker_that_is_away_does_not_say():
    for url in ("redis://127.0.0.1:1/0", "amqp://guest:guest@127.0.0.1:1//"):
        depth = depth_of(Settings(broker_url=url))
        assert depth.ask() is None
        depth.close()
