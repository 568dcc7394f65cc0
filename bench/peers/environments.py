"""
Where peers run that need packages which this project does not have: made on demand in `.penstock/bench/`, and kept.

A peer's packages are pinned here and not in the project's lock: celery-batches would take Celery back for everybody.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "Unavailable", "node_environment", "own_environment", "python_environment"]

_FOLDER = Path(__file__).parents[2] / ".penstock" / "bench"
_INSTALL_S = 300.0


class Unavailable(Exception):  # noqa: N818  # it is a finding
    """Raised when a peer cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The program that runs a peer's file, and the folder with its packages."""

    program: str
    folder: Path


def own_environment() -> Environment:
    """This project's own."""
    return Environment(sys.executable, Path(sys.prefix))


def python_environment(name: str, packages: Sequence[str]) -> Environment:
    """
    A virtual environment with these packages.

    Raises:
        Unavailable: They cannot be installed.
    """
    folder = _folder(name, packages)
    program = folder / "bin" / "python"
    if not (folder / "done").exists():
        # Without a pip of its own: making that takes as long as installing the packages.
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
        pip = [sys.executable, "-m", "pip", "--python", str(program), "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", *packages])
        (folder / "done").touch()
    return Environment(str(program), folder)


def node_environment(name: str, packages: Sequence[str]) -> Environment:
    """
    A folder with these packages of npm, for the Node of this machine.

    Raises:
        Unavailable: There is no Node here, or they cannot be installed.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable("no node and npm on this machine")
    folder = _folder(name, packages)
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True}))
        _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *packages])
        (folder / "done").touch()
    return Environment(node, folder)


def _folder(name: str, packages: Sequence[str]) -> Path:
    """Other packages, or another Python, make another folder."""
    text = "\n".join([*packages, sys.version])
    return _FOLDER / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _run(command: list[str]) -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False, cwd=_FOLDER)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"{Path(command[0]).name} {command[1]}: {exc}") from exc
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{Path(command[0]).name} failed: {said[-1] if said else done.returncode}")
