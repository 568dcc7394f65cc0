"""`python -m bench NAME [--json]`: measure, print a table or, last, one JSON object. `python -m bench all`: everything."""

from __future__ import annotations

import argparse
import json
import sys
from types import ModuleType
from typing import Any

from bench import (
    append,
    bad_input,
    drain,
    everything,
    growth,
    latency,
    limit,
    live,
    memory,
    partial,
    peers,
    pressure,
    publish,
    retention,
    scale,
    small,
    update,
)
from bench.goals import judged
from bench.site import BROKERS, RoundVoid, site
from penstock_worker.errors import PenstockError

#: Every bench by its name; each has `EVENTS`, its default, and `measure(place, arguments)`.
BENCHES: dict[str, ModuleType] = {
    "limit": limit,
    "drain": drain,
    "live": live,
    "update": update,
    "partial": partial,
    "append": append,
    "small": small,
    "publish": publish,
    "latency": latency,
    "memory": memory,
    "growth": growth,
    "scale": scale,
    "pressure": pressure,
    "peers": peers,
    "retention": retention,
    "bad-input": bad_input,
}
ROUNDS = 3


def main(words: list[str] | None = None) -> int:
    """0 when measured, 1 when a round was void (rows or checksums not what they must be), 2 when a server cannot be had."""
    arguments = parse(sys.argv[1:] if words is None else words)
    try:
        if arguments.name == "all":
            return everything.run(list(BENCHES), arguments)
        with site(arguments.broker) as place:
            result = measure(place, arguments)
    except RoundVoid as exc:
        print(f"void: {exc}", file=sys.stderr)
        return 1
    except PenstockError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    if arguments.as_json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:22} {value}")
    return 0


def measure(place: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """One bench on these servers, its goals judged; a duration has no ratio to anything."""
    result: dict[str, Any] = BENCHES[arguments.name].measure(place, arguments)
    return {"ratio": None} | result | {"goals": judged(result), "phases_s": place.phases.told()}


def parse(words: list[str]) -> argparse.Namespace:
    """What stands behind `python -m bench`."""
    return _parser().parse_args(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Penstock on this machine.")
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHES.items():
        command = names.add_parser(name, help=(module.__doc__ or name).strip().splitlines()[0])
        command.add_argument("--broker", choices=BROKERS, default="redis")
        command.add_argument("--events", type=int, default=module.EVENTS)
        command.add_argument("--rounds", type=int, default=ROUNDS)
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
        command.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object last")
    everything.add_arguments(names.add_parser("all", help=(everything.__doc__ or "").strip().splitlines()[0]))
    return parser


if __name__ == "__main__":
    sys.exit(main())
