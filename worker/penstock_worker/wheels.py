"""Programs that ship inside wheels; found without importing the wheel, whose Python code is not needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["find_package_folder"]


def find_package_folder(package: str) -> Path | None:
    """Where the package is installed, or None where it is not."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
