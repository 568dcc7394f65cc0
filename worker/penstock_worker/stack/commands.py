"""
The command lines of workers, beat and Flower.

Apart from `services`, because a production host that runs `penstock worker` has nothing that watches processes.
"""

from __future__ import annotations

import os
import sys

from pydantic import SecretStr

from penstock_producers import environment
from penstock_worker.settings import Settings, variable_of

__all__ = ["beat_command", "flower_command", "service_environment", "worker_command"]

_CELERY = (sys.executable, "-m", "celery", "-A", "penstock_worker.app")

#: The task queue. The queue of events is not named: its consumer is the ingest step, and a second one would disturb it.
_TASK_QUEUE = "penstock.maintenance"

#: What a child may not find in its environment: a stack's addresses, what the command line says, what a test has made up.
_TOLD = (
    "broker_url",
    "broker_password",
    "broker_tls_ca",
    "broker_tls_certificate",
    "broker_tls_key",
    "database_url",
    "database_password",
    "database_tls_ca",
    "database_tls_certificate",
    "database_tls_key",
    "worker_only",
    "concurrency",
)


def worker_command(settings: Settings, name: str) -> list[str]:
    """
    One worker with prefork children: for events, for maintenance, or for both.

    Events are on, for Flower. Gossip and mingle are off: workers have nothing to tell each other, and it costs start time
    and a queue each.
    """
    words = ["worker", "--pool", "prefork", "--concurrency", str(settings.concurrency)]
    words += ["-X" if settings.worker_only == "ingest" else "-Q", _TASK_QUEUE]
    words += ["-E", "-n", name, "--loglevel", settings.log_level, "--without-gossip", "--without-mingle"]
    return [*_celery(settings), *words]


def beat_command(settings: Settings) -> list[str]:
    return [*_celery(settings), "beat", "--loglevel", settings.log_level]


def flower_command(settings: Settings, address: str, port: int) -> list[str]:
    """Flower, only to look at: what it shows may also be reached by those who must not control the pool."""
    words = [f"--address={address}", f"--port={port}", "--read_only=True", f"--logging={settings.log_level.lower()}"]
    return [sys.executable, "-m", "penstock_worker.stack.flower_pages", *words]


def _celery(settings: Settings) -> tuple[str, ...]:
    """Without its banner where every line is to be JSON."""
    return (*_CELERY, "--quiet") if settings.log_format == "json" else _CELERY


def service_environment(settings: Settings) -> dict[str, str]:
    """
    What tells a child process the addresses that this process found, and what was decided here.

    What it has from its environment already, or from a file that this names, is left out: no secret gets there that was not.
    """
    told: dict[str, str] = {}
    for name in _TOLD:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
        variable = variable_of(name)
        if text and text != environment.read(variable, os.environ):
            told[variable] = text
            if f"{variable}_FILE" in os.environ:
                told[f"{variable}_FILE"] = ""
    return told
