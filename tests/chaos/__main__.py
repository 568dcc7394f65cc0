"""
`python -m tests.chaos`: a run on each broker; exits with 1 unless nothing is lost, doubled or wrong.

    --minutes 1 --seed 7 --broker redis    less
    --plan                                 print the plan and do nothing
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.plan import BROKERS, KINDS, Plan, make_plan
from tests.chaos.report import report
from tests.chaos.run import Outcome, run
from tests.chaos.site import Shape
from tests.servers.rabbitmq import find_program


def main() -> int:
    """Run what the arguments say."""
    args = _arguments()
    seed = int(time.time()) % 1_000_000 if args.seed is None else args.seed
    brokers = [args.broker] if args.broker else list(BROKERS)
    if "rabbitmq" in brokers and find_program() is None:
        sys.exit("rabbitmq-server is not installed: BROKER=redis leaves it out")
    kinds = args.kinds.split(",") if args.kinds else list(KINDS)
    plans = [make_plan(seed, broker, args.minutes and args.minutes / len(brokers), kinds, args.each) for broker in brokers]
    for plan in plans:
        print(plan, flush=True)
    if args.plan:
        return 0
    # Both, for a shell has SIGINT ignored by what it starts in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # The harness's own producer would tell of every fault.
    logging.getLogger("penstock.producer").setLevel(logging.CRITICAL)
    outcomes = [_run(plan, keep=args.keep) for plan in plans]
    print(report(outcomes), flush=True)
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def _run(plan: Plan, *, keep: bool) -> Outcome:
    """A run in a folder of its own, which stays where it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-chaos-{plan.broker}-"))
    began = time.monotonic()
    is_over = False
    try:
        outcome = run(plan, Shape(), folder, lambda line: print(f"{time.monotonic() - began:7.1f}  {line}", flush=True))
        is_over = outcome.is_good
    except KeyboardInterrupt:
        is_over = True
        raise
    finally:
        if is_over and not keep:
            shutil.rmtree(folder)
        else:
            print(f"logs, spools and servers' folders are kept: {folder}", flush=True)
    return outcome


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break everything, and count.")
    parser.add_argument("--minutes", type=float, help="as many rounds as fit in, over both brokers; all by default")
    parser.add_argument("--seed", type=int, help="the same one replays the same faults")
    parser.add_argument("--broker", choices=BROKERS, help="both by default")
    parser.add_argument("--kinds", help="kinds of faults, separated by commas")
    parser.add_argument("--each", type=int, help="faults of each kind")
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--keep", action="store_true", help="keep the folder also of a good run")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
