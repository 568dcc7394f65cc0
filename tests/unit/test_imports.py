"""What a process does not load, it does not keep in memory, nor wait for."""

from __future__ import annotations

import subprocess
import sys


def test_a_worker_does_without_what_only_migrations_need() -> None:
    program = "import penstock_worker.app, sys; print(sorted({'alembic', 'sqlalchemy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
