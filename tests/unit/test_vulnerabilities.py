"""`make vulnerabilities`: what pip-audit says, and what follows from it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[2] / ".ci" / "vulnerabilities.py"


@pytest.fixture(scope="module")
def verdict() -> Any:
    spec = importlib.util.spec_from_file_location("vulnerabilities", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.verdict


GOOD = {"name": "kombu", "version": "5.7.0", "vulns": []}
BAD = {"name": "celery", "version": "5.1.0", "vulns": [{"id": "PYSEC-2021-858", "fix_versions": ["5.2.2"], "aliases": []}]}
UNKNOWN = {"name": "uv", "skip_reason": "Dependency not found on PyPI and could not be audited: uv (0.13.8)"}


def test_a_known_one_fails(verdict: Any):
    assert verdict({"dependencies": [GOOD, BAD]}, "") == (
        1,
        [
            "celery 5.1.0: PYSEC-2021-858, mended in 5.2.2",
            "vulnerabilities: 2 packages looked up, 1 with a known one",
        ],
    )


def test_none_passes(verdict: Any):
    assert verdict({"dependencies": [GOOD]}, "") == (0, ["vulnerabilities: 1 packages looked up, 0 with a known one"])


@pytest.mark.parametrize(
    ("report", "said", "line"),
    [
        ({"dependencies": [UNKNOWN]}, "No known vulnerabilities found", "the advisory service knows none of the 1 packages"),
        (None, "Traceback ...\nConnectionError: no route", "the advisory service cannot be reached: ConnectionError: no route"),
    ],
)
def test_what_was_not_looked_up_is_said_and_passes(verdict: Any, report: Any, said: str, line: str):
    assert verdict(report, said) == (0, [f"vulnerabilities: not looked up, {line}"])


def test_what_pip_audit_cannot_do_with_the_lock_is_no_outage(verdict: Any):
    assert verdict(None, "ERROR:pip_audit._cli:requirement kombu is missing its hash") == (
        1,
        ["vulnerabilities: pip-audit failed: ERROR:pip_audit._cli:requirement kombu is missing its hash"],
    )


def test_a_few_that_are_unknown_hide_nothing(verdict: Any):
    code, lines = verdict({"dependencies": [UNKNOWN, BAD]}, "")
    assert (code, lines[1]) == (1, "vulnerabilities: not looked up: uv")
