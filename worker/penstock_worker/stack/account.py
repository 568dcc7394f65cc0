"""
Running a server as root, for servers that refuse it.

PostgreSQL does not run as root. Where we are root, it runs as a system account of its own, which `useradd` makes; where
that cannot be, as `nobody`. The account may be unable to reach the server's files or its data, because a folder above them
is root's alone (a checkout under /root, say). Opening that folder to everybody, as others do, would change what a person
decided; instead the server then keeps one right of root, to pass by file permissions (CAP_DAC_OVERRIDE).
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from penstock_worker.errors import ConfigurationError

__all__ = ["ACCOUNT", "as_account", "own_by_account"]

#: The system account that servers run as where we are root.
ACCOUNT = "penstock"


def as_account(command: Sequence[str], *reaches: Path) -> list[str]:
    """
    The command as it must be started so that the program does not run as root.

    Args:
        command: The program, as an absolute path, and its arguments.

        reaches: Files and folders beside the program that it must reach.
    """
    if os.geteuid() != 0:
        return list(command)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigurationError("PostgreSQL does not run as root and setpriv (util-linux) is missing: run as an ordinary user")
    account = _account()
    words = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    if not all(_is_open(path) for path in (Path(command[0]), *reaches)):
        words += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [*words, "--", *command]


def own_by_account(folder: Path) -> None:
    """Give a folder to the account, where we are root."""
    if os.geteuid() == 0:
        account = _account()
        os.chown(folder, account.pw_uid, account.pw_gid)


def _account() -> pwd.struct_passwd:
    if not _has_account():
        _make_account()
    return pwd.getpwnam(ACCOUNT if _has_account() else "nobody")


def _has_account() -> bool:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        return False
    return True


def _make_account() -> None:
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is not None:
        # Two checkouts may do so at once: one of them fails, and both find the account.
        words = [useradd, "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", ACCOUNT]
        subprocess.run(words, check=False, capture_output=True)


def _is_open(path: Path) -> bool:
    """Whether everybody can pass through the path and every folder above it."""
    target = path.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (target, *target.parents))
