"""A server that cannot be had: a skipped test on a laptop, a failed one in CI."""

from __future__ import annotations

import pytest

from tests.conftest import find_or_skip, skip_or_fail


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
