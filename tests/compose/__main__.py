"""
`python -m tests.compose`: bring deploy/compose.yml up, use it, break it, count, take it down; exits with 1 if it does not work.

    --broker redis      one of the two; both by default
    --events 1000       less to publish

Where no container engine is to be had it says why and exits with 0: nothing was wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.compose import checks
from tests.compose.checks import Publication
from tests.compose.command import CommandError
from tests.compose.engine import MissingError, find_compose, running_engine
from tests.compose.images import IMAGES, build_ours, find_image
from tests.compose.stack import Stack

_BROKERS = ("redis", "rabbitmq")
_TAG = "penstock:test-compose"
_WORKERS = 3
_ENDING = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def main() -> int:
    """Run what the arguments say."""
    args = _arguments()
    _hear_endings()
    try:
        with running_engine():
            compose = find_compose()
            images = _images([args.broker] if args.broker else list(_BROKERS))
            for broker in [args.broker] if args.broker else _BROKERS:
                _try(broker, compose, images, args.events)
    except MissingError as exc:
        print(f"skipped: {exc}")
        return 0
    except (AssertionError, CommandError) as exc:
        print(f"FAILED: {exc}", file=sys.stderr)
        return 1
    print("all of it works; Grafana was not tried, of which there is no image here")
    return 0


def _hear_endings() -> None:
    """Let them end it by way of taking down what is up."""
    for number in _ENDING:
        signal.signal(number, signal.default_int_handler)


def _images(brokers: list[str]) -> dict[str, str]:
    needed = {"redis": {"valkey"}, "rabbitmq": {"rabbitmq"}}
    left_out = {name for broker, names in needed.items() if broker not in brokers for name in names}
    found = {}
    for image in IMAGES:
        if image.name not in left_out:
            found[image.variable] = _step(f"image for {image.official}", lambda image=image: find_image(image))
    python = found.pop("PYTHON_IMAGE")
    _step("our image", lambda: build_ours(_TAG, python))
    return {**found, "PENSTOCK_IMAGE": _TAG}


def _try(broker: str, compose: list[str], images: dict[str, str], events: int) -> None:
    print(f"--- {broker}", flush=True)
    with tempfile.TemporaryDirectory(prefix="penstock-compose-") as folder:
        stack = Stack(broker, compose, images, Path(folder))
        try:
            _use(stack, events)
        finally:
            # A second Ctrl-C would leave half of it behind; what is started from here on does not hear it either.
            for number in _ENDING:
                signal.signal(number, signal.SIG_IGN)
            _step("down, volumes too", stack.down)
            _hear_endings()
    left = stack.inspect()
    assert not left, left


def _use(stack: Stack, events: int) -> None:
    _step("up, until all are healthy", stack.up)
    publication = Publication(stack, events)
    try:
        _step("publish, until a fifth is stored", lambda: f"{publication.wait_for_some():,} of {events:,} rows")
        _step("kill the worker", lambda: checks.kill_worker(stack))
        _step("publish the rest", publication.end)
    finally:
        publication.stop()
    _step("all are stored", lambda: checks.check_stored(stack, publication))
    _step("penstock audit", lambda: checks.check_audit(stack, events))
    _step(f"--scale worker={_WORKERS}", lambda: checks.check_scale(stack, _WORKERS))
    _step("--scale worker=1", lambda: checks.check_drain(stack))
    _step("Flower", lambda: checks.check_flower(stack))
    _step("published ports", lambda: checks.check_ports(stack))
    _step("networks", lambda: checks.check_networks(stack))
    _step("hardening", lambda: checks.check_hardening(stack))


def _step(what: str, do: Callable[[], T]) -> T:
    began = time.monotonic()
    result = do()
    print(f"{time.monotonic() - began:7.1f} s  {what}{f': {result}' if result else ''}", flush=True)
    return result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.compose", description="Try deploy/compose.yml in a container engine."
    )
    parser.add_argument("--broker", choices=_BROKERS, help="both by default")
    parser.add_argument("--events", type=int, default=100_000, help="how many are published")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
