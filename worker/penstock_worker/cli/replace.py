"""Becoming a Celery program: signals and exit codes are then its own, with nothing in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from penstock_worker.settings import Settings
from penstock_worker.stack.commands import service_environment

__all__ = ["replace_by"]


def replace_by(command: Sequence[str], settings: Settings) -> NoReturn:
    """
    Go on as this command; does not return.

    Raises:
        ConfigurationError: There is no broker.
    """
    settings.broker  # noqa: B018  # raises where it is not set
    sys.stdout.flush()
    os.execve(command[0], list(command), {**os.environ, **service_environment(settings)})  # noqa: S606  # no shell is wanted
