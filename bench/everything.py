"""
All benches, one after the other, and their report: RESULTS.md, results.json and charts.

Each runs as a process of its own with servers of its own, so that one that fails takes no other along; the report tells it.
On both brokers run those whose figure the broker can change; one without a goal runs only when it is asked for. A part of the
benches can be run again: the results of the others stay.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["BOTH_BROKERS", "ON_DEMAND", "add_arguments", "plan", "run"]

#: Those that run on RabbitMQ too.
BOTH_BROKERS = ("drain", "live", "small", "latency")
#: Those with no goal of their own.
ON_DEMAND = ("bad-input",)
#: Where fewer events alone would not make a bench quick.
_QUICK = {
    "growth": ["--sizes", "1000", "10000"],
    "memory": ["--short", "1000"],
    "retention": ["--rows", "50000", "--month-rows", "1000"],
}
#: Above what the longest one takes on a busy machine; then, how long it may take to stop its servers.
_LIMIT_S, _STOP_S = 1_800.0, 60.0
_ROOT = Path(__file__).parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these benches")
    parser.add_argument("--events", type=int, help="in place of each bench's own number: quick, and without meaning")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the report goes")


def plan(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names with brokers, in their order."""
    return [(name, broker) for name in names for broker in ("redis", *(["rabbitmq"] if name in BOTH_BROKERS else []))]


def run(names: Sequence[str], arguments: argparse.Namespace) -> int:
    """0 when everything was measured, 1 when something was not; goals are told, not enforced."""
    chosen = [name for name in names if name in (arguments.only or set(names) - {*ON_DEMAND})]
    unknown = set(arguments.only or ()) - set(names)
    if unknown:
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}")
    from bench.report import write_report  # draws charts, which takes the extra [bench]

    file = arguments.folder / "results.json"
    before = json.loads(file.read_text()) if arguments.only and file.exists() else {"results": []}
    began = time.monotonic()
    measured = [_measured(name, broker, arguments) for name, broker in plan(chosen)]
    results = [*(result for result in before["results"] if result["name"] not in chosen), *measured]
    order = {pair: place for place, pair in enumerate(plan(names))}
    results.sort(key=lambda result: order.get((result["name"], result["broker"]), len(order)))
    minutes = round((time.monotonic() - began) / 60, 1)
    # Of the whole run, where a part of it is measured anew: each result says itself when it was measured.
    told = {"at": _now(), "minutes": minutes} | before | {"results": results}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=1) + "\n")
    write_report(told, arguments.folder)
    print(f"{minutes} minutes; {arguments.folder / 'RESULTS.md'}")
    return int(any("failed" in result for result in measured))


def _measured(name: str, broker: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", name, "--broker", broker, "--json"]
    for word in ("events", "rounds"):
        value = getattr(arguments, word)
        command += [f"--{word}", str(value)] if value else []
    command += _QUICK.get(name, []) if arguments.events else []
    began = time.monotonic()
    done = _ended(command)
    seconds = round(time.monotonic() - began)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        print(f"{name:10} {broker:9} {seconds:4} s  not measured: {reason}", flush=True)
        return {"name": name, "broker": broker, "failed": reason, "took_s": seconds}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) | {"took_s": seconds, "at": _now(), "commit": _commit()}
    verdicts = "; ".join(f"{goal['goal']}: {goal['value']} {_word(goal['reached'])}" for goal in result["goals"])
    print(f"{name:10} {broker:9} {seconds:4} s  {result['events_per_s']:>9,.0f} events/s  {verdicts}", flush=True)
    return result


def _ended(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The program, run to its end, or told to stop: killed, it would leave its servers behind."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            _end(process)
            return subprocess.CompletedProcess(command, 1, "", f"did not end within {_LIMIT_S:.0f} s")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    """Of the code that was measured; with a plus where files were changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _word(reached: bool | None) -> str:
    return {True: "reached", False: "NOT REACHED", None: "not measured"}[reached]
