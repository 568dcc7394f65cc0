"""Who may look at Flower, and what tells Flower so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings
from penstock_worker.stack import flower_pages
from penstock_worker.stack.commands import flower_command
from penstock_worker.stack.flower_login import FlowerLogin, flower_login


def test_a_login_that_was_set_is_not_printed() -> None:
    login = flower_login(Settings(flower_login="anna:secret:with-colon"), {})
    assert login == FlowerLogin("anna:secret:with-colon")
    assert login.environment == {}  # Flower reads it from where it was set, a file for instance
    assert (login.url("127.0.0.1", 5555), "secret" in repr(login)) == ("http://127.0.0.1:5555", False)


def test_flower_reads_it_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is in no environment that a process was started with; and it goes before Flower's own."""
    (tmp_path / "login").write_text("anna:secret\n")
    monkeypatch.setenv("PENSTOCK_FLOWER_LOGIN_FILE", str(tmp_path / "login"))
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "another:one")
    monkeypatch.setattr(sys, "argv", ["flower"])
    for name in ("replace_pages", "celery"):
        monkeypatch.setattr(flower_pages, name, lambda: None)
    flower_pages.main()
    assert os.environ["FLOWER_BASIC_AUTH"] == "anna:secret"
    (tmp_path / "login").write_text("")
    monkeypatch.delenv("FLOWER_BASIC_AUTH")
    with pytest.raises(SystemExit, match="no login"):
        flower_pages.main()


@pytest.mark.parametrize("given", [{}, {"flower_login": ""}])
def test_without_one_a_password_is_made_at_each_start(given: dict[str, str]) -> None:
    one, other = (flower_login(Settings.model_validate(given), {}) for _ in range(2))
    assert one.is_made
    assert one.text != other.text
    assert one.text is not None
    assert len(one.text.removeprefix("penstock:")) == 24
    assert one.url("::1", 5555) == f"http://{one.text}@[::1]:5555"
    assert not [word for word in flower_command(Settings(), "127.0.0.1", 5555) if one.text in word]


@pytest.mark.parametrize("name", ["FLOWER_BASIC_AUTH", "FLOWER_AUTH"])
def test_flowers_own_settings_of_a_login_stay(name: str) -> None:
    login = flower_login(Settings(), {name: "given"})
    assert (login, login.environment, login.url("127.0.0.1", 1)) == (FlowerLogin(None), {}, "http://127.0.0.1:1")
    assert flower_login(Settings(flower_login="anna:pw"), {name: "given"}) == FlowerLogin("anna:pw")


@pytest.mark.parametrize("text", ["anna", "anna:", ":secret", "anna:a,b", "anna:café", "anna:a\nb"])
def test_a_login_that_flower_could_not_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_FLOWER_LOGIN m") as refused:
        flower_login(Settings(flower_login=text), {})
    assert text not in str(refused.value)
