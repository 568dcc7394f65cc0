"""Commands as a person runs them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest

__all__ = ["penstock", "penstock_here"]

#: Nobody is there.
AWAY = {"PENSTOCK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "PENSTOCK_BROKER_URL": "redis://127.0.0.1:1/0"}


def penstock(*words: str, within_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that finds no other settings than those given here."""
    return subprocess.run(
        [sys.executable, "-m", "penstock_worker", *words],
        env=_inherited() | AWAY | environment,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


def penstock_here(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported everything: most of a short command's time goes into that."""
    from penstock_worker.cli import main

    argv, out, err = ["penstock", *words], io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, _inherited() | AWAY | environment, clear=True),
        patch.object(sys, "argv", argv),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(argv, int(ended.value.code or 0), out.getvalue(), err.getvalue())


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
