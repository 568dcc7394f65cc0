"""`penstock exporter`: one process that looks at database and broker for all, and tells Prometheus."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated, Any

import typer

from penstock_worker.settings import load_settings

__all__ = ["register"]

logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("exporter")(exporter)


def exporter(
    address: Annotated[str | None, typer.Option(help="Where it listens. Default: PENSTOCK_PROBE_ADDRESS.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Default: PENSTOCK_EXPORTER_PORT.")] = None,
) -> None:
    """
    Tell Prometheus how database and broker are, for all workers: /metrics, /live and /ready.

    It looks when it is asked. One is enough; several tell the same. SIGTERM ends it.
    """
    from prometheus_client import CollectorRegistry

    from penstock_worker.exporter.collector import exporter_of
    from penstock_worker.logs import set_up_logging
    from penstock_worker.probe import ProbePort

    settings = load_settings()
    set_up_logging(settings)
    looks = exporter_of(settings)
    registry = CollectorRegistry()
    registry.register(looks)
    listens = ProbePort(
        address or settings.probe_address,
        port or settings.exporter_port,
        looks.live,
        looks.ready,
        registry,
        setting="PENSTOCK_EXPORTER_PORT",
    )
    ended = _end_signal()
    listens.start()
    logger.info(
        "the exporter listens on %s:%d", address or settings.probe_address, listens.port, extra={"action": "exporter_listens"}
    )
    ended.wait()
    listens.stop()
    looks.close()


def _end_signal() -> threading.Event:
    ended = threading.Event()

    def end(*_: Any) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return ended
