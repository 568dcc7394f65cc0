"""
The container engine: the one that runs here, else Debian's, started for this run where that can be done.

A machine without one is no failure: `MissingError` says why, and the run is skipped with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.compose.command import CommandError, run

__all__ = ["MissingError", "find_compose", "running_engine"]

_START_S = 60
_POLICY = Path("/usr/sbin/policy-rc.d")


class MissingError(Exception):
    """Raised when there is no engine or no compose, and none can be installed; the text says why."""


@contextmanager
def running_engine() -> Iterator[None]:
    """An engine that answers `docker`; one that was started here is ended with all it had."""
    if _answers():
        yield
        return
    install("docker", "docker.io")
    if _answers():
        yield
        return
    with _own_engine():
        yield


def find_compose() -> list[str]:
    """The words that compose begins with: the plugin of `docker`, or the program of its own."""
    with suppress(CommandError, FileNotFoundError):
        run(["docker", "compose", "version"])
        return ["docker", "compose"]
    install("docker-compose", "docker-compose")
    return ["docker-compose"]


def install(program: str, package: str) -> None:
    """
    Have a program, from Debian where it is not there.

    Raises:
        MissingError: It cannot be installed.
    """
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MissingError(f"there is no {program}, and it takes root and apt-get to install it")
    # The package would start a service at once; what is needed is started by whoever needs it.
    is_ours = not _POLICY.exists()
    if is_ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], env={"DEBIAN_FRONTEND": "noninteractive"})
    except CommandError as exc:
        raise MissingError(f"apt-get could not install {package}: {str(exc).splitlines()[-1]}") from exc
    finally:
        if is_ours:
            _POLICY.unlink()


def _answers() -> bool:
    try:
        run(["docker", "version"], within_s=30)
    except (CommandError, FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return True


@contextmanager
def _own_engine() -> Iterator[None]:
    if os.geteuid() != 0:
        raise MissingError("no container engine answers, and it takes root to start one")
    folder = Path(tempfile.mkdtemp(prefix="penstock-engine-"))
    socket = f"unix://{folder}/docker.sock"
    words = ["dockerd", "--host", socket, "--data-root", folder / "data", "--exec-root", folder / "exec"]
    log = folder / "dockerd.log"
    with log.open("w") as output:
        process = subprocess.Popen([*words, "--pidfile", folder / "pid"], stdout=output, stderr=subprocess.STDOUT)
    os.environ["DOCKER_HOST"] = socket
    try:
        deadline = time.monotonic() + _START_S
        while not _answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise MissingError(f"dockerd does not start here: {(log.read_text().splitlines() or ['it said nothing'])[-1]}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(120)
        del os.environ["DOCKER_HOST"]
        shutil.rmtree(folder, ignore_errors=True)
