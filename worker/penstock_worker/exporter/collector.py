"""From looks to metrics: what a scrape of the exporter tells, and whether it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.registry import Collector

from penstock_schemas.registry import load_registry
from penstock_worker import metrics
from penstock_worker.exporter.asked import WAIT_S, Asked
from penstock_worker.exporter.database import DatabaseLook
from penstock_worker.probe import Check
from penstock_worker.settings import Settings

__all__ = ["Exporter", "exporter_of"]


class Exporter(Collector):
    """
    Args:
        asked: Those that are looked at, each for itself: one that is frozen hides no other.
        now: Their clock.
    """

    def __init__(self, asked: Sequence[Asked], now: Callable[[], float] = time.monotonic) -> None:
        self._asked, self._now = asked, now

    def collect(self) -> Iterator[Metric]:
        """All metrics of this moment. Takes as long as the slower look, and never much longer than `WAIT_S`."""
        for each in self._asked:
            each.begin()
        until = self._now() + WAIT_S
        answers = {each.name: each.wait(until) for each in self._asked}
        yield metrics.family("penstock_exporter_up", {name: float(not answer.trouble) for name, answer in answers.items()})
        yield metrics.family("penstock_exporter_look_seconds", {name: answer.seconds for name, answer in answers.items()})
        for answer in answers.values():
            for name, values in answer.figures.items():
                yield metrics.family(name, values)

    def ready(self) -> Check:
        """Whether all could be asked the last time. Does not wait; it begins a look for the next question."""
        for each in self._asked:
            each.begin()
        answers = {each.name: each.answer() for each in self._asked}
        return Check(tuple(f"the {name}: {answer.trouble}" for name, answer in answers.items() if answer.trouble))

    def live(self) -> Check:
        """That it answers is all: a database or a broker that is away is no reason to be restarted."""
        return Check()

    def close(self) -> None:
        """Disconnect."""
        for each in self._asked:
            each.close()


def exporter_of(settings: Settings) -> Exporter:
    """
    The exporter of these settings; nothing is connected before the first question.

    Raises:
        ConfigurationError: There is no broker or no database.
        DeclarationError: The record types cannot be loaded.
    """
    settings.database  # noqa: B018  # raises where it is not set
    database = DatabaseLook(settings, load_registry(settings.records))
    if settings.broker.startswith("redis"):
        from penstock_worker.exporter.redis_broker import RedisLook

        return Exporter([Asked("database", database), Asked("broker", RedisLook(settings))])
    from penstock_worker.exporter.rabbitmq import RabbitLook

    return Exporter([Asked("database", database), Asked("broker", RabbitLook(settings))])
