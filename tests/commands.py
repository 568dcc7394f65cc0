"""Commands as a person runs them."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["penstock"]

#: Nobody is there.
AWAY = {"PENSTOCK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "PENSTOCK_BROKER_URL": "redis://127.0.0.1:1/0"}


def penstock(*words: str, within_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that finds no other settings than those given here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "penstock_worker", *words],
        env=inherited | AWAY | environment,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
