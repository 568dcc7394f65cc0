"""`python -m bench NAME [--json]`: measure, print a table or, last, one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
from types import ModuleType

from bench import bad_input, drain
from bench.harness import RoundVoid
from penstock_worker.errors import PenstockError

#: Every bench by its name.
BENCHES: dict[str, ModuleType] = {"bad-input": bad_input, "drain": drain}


def main() -> int:
    """0 when measured, 1 when a round was void (rows or checksums not what they must be), 2 when a server cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Penstock on this machine.")
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHES.items():
        command = names.add_parser(name, help=(module.__doc__ or name).strip().splitlines()[0])
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object last")
    arguments = parser.parse_args()
    try:
        result = BENCHES[arguments.name].measure(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
