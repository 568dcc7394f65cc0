"""A server that cannot be had: a skipped test on a laptop, a failed one in CI."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import find_or_skip, skip_or_fail

INSTALLER = Path(__file__).parents[1] / "servers" / "install.sh"


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_server(ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no RabbitMQ here"):
        skip_or_fail("no RabbitMQ here")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_program(ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(outcome, match="promtool is not installed; `make setup` as root installs Debian's prometheus"):
        find_or_skip("promtool", "prometheus")


def install(folder: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """Run the installer where there is nothing but these programs, as somebody who is not root."""
    for name in programs:
        (folder / name).write_text(f"#!/bin/sh\necho {name} was called >&2\n")
        (folder / name).chmod(0o755)
    (folder / "id").write_text("#!/bin/sh\necho 1000\n")
    (folder / "id").chmod(0o755)
    return subprocess.run(
        ["/bin/sh", str(INSTALLER)], env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60, check=True
    )


def test_setup_asks_nobody_where_all_is_there(tmp_path: Path) -> None:
    done = install(tmp_path, "rabbitmq-server", "prometheus", "promtool", "chromium", "apt-get")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("programs", "reason"),
    [((), ", and there is no apt-get"), (("apt-get",), ": apt-get needs root to install it")],
    ids=["no apt-get", "not root"],
)
def test_setup_tells_what_it_cannot_install(tmp_path: Path, programs: tuple[str, ...], reason: str) -> None:
    done = install(tmp_path, "rabbitmq-server", *programs)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{package} is not installed{reason}; its tests will be skipped, in CI they will fail"
        for package in ("prometheus", "chromium")
    ]
