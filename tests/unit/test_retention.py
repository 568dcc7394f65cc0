"""Retention policies: how a setting is written, and that it is what everybody goes by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penstock_worker.errors import ConfigurationError
from penstock_worker.retention_setting import parse_retention
from penstock_worker.settings import Settings, load_settings
from penstock_worker.store.months import kept_months
from penstock_worker.store.retention.policy import Policy, policy_of, registry_for


def test_a_setting_names_types_with_how_long_they_are_kept():
    assert parse_retention(" a.b=30d, c.d = never,e.f=12h,g.h=8w,i.j=2y,") == {
        "a.b": timedelta(days=30),
        "c.d": None,
        "e.f": timedelta(hours=12),
        "g.h": timedelta(weeks=8),
        "i.j": timedelta(days=730),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guardian.metric", "'guardian.metric': write type=30d or type=never"),
        ("guardian.metric=30", "guardian.metric=30: write hours, days, weeks or years such as 12h, 30d, 8w, 2y, or never"),
        ("guardian.metric=0d", "guardian.metric=0d: write hours"),
        ("guardian.metric=101y", "that is more than 100 years, write never"),
        ("guardian.metric=1d,guardian.metric=2d", "guardian.metric is given twice"),
    ],
)
def test_a_setting_that_is_wrong_is_said_at_start(monkeypatch: pytest.MonkeyPatch, text: str, message: str):
    monkeypatch.setenv("PENSTOCK_RETENTION", text)
    with pytest.raises(ConfigurationError, match=r"^PENSTOCK_RETENTION: ") as caught:
        load_settings()
    assert message in str(caught.value)


def test_a_type_that_there_is_not_is_said_at_start():
    with pytest.raises(ConfigurationError, match=r"^PENSTOCK_RETENTION: there is no type .guardian.metrik.; there are"):
        registry_for(Settings(retention="guardian.metrik=30d"))


def test_a_setting_goes_before_a_declaration_and_nobody_says_never():
    settings = Settings(retention="guardian.metric=30d,guardian.memory=never,scheduler.job=1y")
    registry = registry_for(settings)

    types = ("guardian.metric", "guardian.memory", "scheduler.job", "guardian.access_log", "scheduler.pipeline")
    assert {type: policy_of(settings, registry, type) for type in types} == {
        "guardian.metric": Policy(timedelta(days=30), "setting"),
        "guardian.memory": Policy(None, "setting"),
        "scheduler.job": Policy(timedelta(days=365), "setting"),
        "guardian.access_log": Policy(timedelta(days=7 * 365), "declaration"),
        "scheduler.pipeline": Policy(None, "nobody"),
    }


def test_the_months_of_a_type_follow_the_setting():
    now = datetime(2026, 11, 21, tzinfo=UTC)
    months = {
        text: kept_months(registry_for(Settings(retention=text))["guardian.metric"], now)[0]
        for text in ("", "guardian.metric=30d", "guardian.metric=2y", "guardian.metric=never")
    }
    assert months == {
        "": datetime(2025, 11, 1, tzinfo=UTC),
        "guardian.metric=30d": datetime(2026, 10, 1, tzinfo=UTC),
        "guardian.metric=2y": datetime(2024, 11, 1, tzinfo=UTC),
        "guardian.metric=never": None,
    }


def test_registries_do_not_share_what_a_setting_changed():
    registry_for(Settings(retention="guardian.metric=30d"))
    assert registry_for(Settings())["guardian.metric"].declaration.retention == timedelta(days=365)
