"""When records are stale and given up, as it is declared and as it is set."""

from __future__ import annotations

from datetime import timedelta

import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import load_settings
from penstock_worker.store.recovery.rules import rules_of

SETTING = "translation.session=10m/1d, guardian.session = 90s / 2h"


def test_declared_times_can_be_overruled() -> None:
    rules = rules_of(load_registry(), SETTING)
    times = {name: (rule.stale_after, rule.abandon_after) for name, rule in rules.items()}
    declared = (timedelta(minutes=30), timedelta(days=1))
    assert times == dict.fromkeys(rules, declared) | {
        "translation.session": (timedelta(minutes=10), timedelta(days=1)),
        "guardian.session": (timedelta(seconds=90), timedelta(hours=2)),
    }
    assert set(rules) == {
        "guardian.session",
        "orchestration.session",
        "orchestration.task",
        "scheduler.execution",
        "translation.session",
        "translation.task",
    }


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("translation.session", "write translation.session=10m/1d"),
        ("translation.session=10m", "write translation.session=10m/1d"),
        ("translation.session=1y/2y", "write translation.session=10m/1d"),
        ("translation.session=10m/1d/2d", "write translation.session=10m/1d"),
        ("translation.session=1d/10m", "stale before it is given up"),
        ("translation.session=0s/10m", "stale before it is given up"),
        ("translation.session=10m/99999999999d", "longer than calendars"),
        ("orchestration.agent=10m/1d", "orchestration.agent has no lifecycle"),
        ("nobody=10m/1d", "nobody has no lifecycle"),
    ],
)
def test_what_is_written_otherwise_is_refused(setting: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^PENSTOCK_RECOVERY: .*{told}"):
        rules_of(load_registry(), setting)


def test_what_is_written_otherwise_is_refused_with_the_settings() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^PENSTOCK_RECOVERY: 'x': write translation.session=10m/1d, with s, m, h or d$"
    ):
        load_settings(recovery="x")
    assert load_settings(recovery=SETTING).recovery == SETTING
