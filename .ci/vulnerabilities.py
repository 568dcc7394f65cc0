"""
Known vulnerabilities of what requirements.lock pins, as pip-audit finds them: `make vulnerabilities`.

Fails where there is one. pip-audit itself ends well when it could look up nothing, and says that there are none: here it is
said in a line what was not looked up. That is no failure, for no change of ours makes the service reachable.
"""  # noqa: INP001  # a script beside the others

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements.lock"
#: Seconds for one answer of the service.
ANSWER_S = 15
#: Names that are listed where only some could not be looked up.
NAMED = 5
#: How pip-audit ends where it reaches nobody.
_AWAY = ("ConnectionError", "Timeout", "Could not connect")


def verdict(report: dict[str, Any] | None, said: str) -> tuple[int, list[str]]:
    """
    The exit code, and lines for people.

    Args:
        report: pip-audit's, None where it did not end with one.
        said: What it wrote beside.
    """
    if report is None and any(word in said for word in _AWAY):
        return 0, [f"vulnerabilities: not looked up, the advisory service cannot be reached: {_last_line(said)}"]
    if report is None:
        return 1, [f"vulnerabilities: pip-audit failed: {_last_line(said)}"]
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [package for package in packages if package.get("vulns")]
    lines = [
        f"{package['name']} {package['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no version yet'}"
        for package in found
        for one in package["vulns"]
    ]
    if len(skipped) == len(packages):
        return 0, [f"vulnerabilities: not looked up, the advisory service knows none of the {len(packages)} packages"]
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        lines.append(f"vulnerabilities: not looked up: {', '.join(skipped[:NAMED])}{more}")
    lines.append(f"vulnerabilities: {len(packages) - len(skipped)} packages looked up, {len(found)} with a known one")
    return int(bool(found)), lines


def main() -> int:
    words = ["pip_audit", "--require-hashes", "--disable-pip", "--requirement", str(LOCK), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--progress-spinner", "off", "--timeout", str(ANSWER_S)],
        capture_output=True,
        text=True,
        check=False,
    )
    code, lines = verdict(_parsed(done.stdout), done.stderr)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return code


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        report = json.loads(text)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
