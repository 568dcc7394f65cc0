"""Commands with their output, and the one line that says why one failed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["CommandError", "run"]


class CommandError(Exception):
    """Raised when a command ended with another code than 0; the text has the end of what it said."""


def run(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    within_s: float = 900,
    check: bool = True,
) -> str:
    """What a command wrote on its standard output; without `check` also where it failed."""
    argv = [str(word) for word in words]
    done = subprocess.run(
        argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=within_s, check=False
    )
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-30:]
        raise CommandError(f"{' '.join(argv)} ended with {done.returncode}:\n" + "\n".join(said))
    return done.stdout
