"""User-style code under the type checkers: what they accept, and what they must find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "typing" / "sample.py"


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "--no-incremental", str(SAMPLE)],
        ["pyright", "--warnings", "-p", str(SAMPLE.parent), "--pythonpath", sys.executable],
    ],
    ids=["mypy", "pyright"],
)
def test_user_style_code_passes(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
