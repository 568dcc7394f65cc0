"""Celery, led to the broker of our settings and to no other."""

from __future__ import annotations

from typing import Any

from celery import Celery

from penstock_producers.transports.tls import celery_broker

__all__ = ["PenstockCelery", "celery_for"]


class PenstockCelery(Celery):  # type: ignore[misc]  # celery has no types
    """
    Takes no broker from Celery's own environment.

    `CELERY_BROKER_URL`, and `BROKER_URL` for its programs, go before what is configured. They are there for another
    application on many a host: jobs, control commands and Flower would be at that one's broker, where others may write.
    """

    def connection(self, hostname: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """See Celery."""
        return super().connection(hostname or self._own_broker, *args, **kwargs)

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """See Celery."""
        return super().connection_for_read(url or self._own_broker, **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """See Celery."""
        return super().connection_for_write(url or self._own_broker, **kwargs)

    @property
    def _own_broker(self) -> str:
        return str(self.conf["broker_url"])


def celery_for(name: str, broker: str) -> PenstockCelery:
    """
    An application of this name, connected to nothing yet.

    Raises:
        ValueError: An option of the broker's URL is wrong.
    """
    app = PenstockCelery(name, set_as_current=False)
    app.conf.update(celery_broker(broker))
    return app
