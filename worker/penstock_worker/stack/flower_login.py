"""Who may look at Flower."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings

__all__ = ["BASIC_AUTH", "FlowerLogin", "flower_login"]

#: The user of a password that was made here.
_USER = "penstock"
#: Flower's own settings that ask for a login: names with passwords, or an OAuth provider's users.
BASIC_AUTH = "FLOWER_BASIC_AUTH"
_FLOWERS_OWN = (BASIC_AUTH, "FLOWER_AUTH")


@dataclass(frozen=True)
class FlowerLogin:
    """
    Args:
        text: `user:password`, or None where Flower's own settings ask for another one.

        is_made: The password was made here, so that nobody knows it yet.
    """

    text: str | None = field(repr=False)
    is_made: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """
        What tells Flower of a password that was made: its arguments would be seen by all users of the machine.

        One that was set it reads for itself, see `flower_pages`: what was in a file is in no environment then.
        """
        return {BASIC_AUTH: self.text} if self.is_made and self.text else {}

    def url(self, address: str, port: int) -> str:
        """Where to look; a password that a person has set is not for the terminal."""
        host = f"[{address}]" if ":" in address else address
        return f"http://{self.text}@{host}:{port}" if self.is_made else f"http://{host}:{port}"


def flower_login(settings: Settings, environment: Mapping[str, str]) -> FlowerLogin:
    """
    The login that was set, else a new one.

    Raises:
        ConfigurationError: The one that was set is none, or Flower could not read it.
    """
    text = settings.flower_login.get_secret_value() if settings.flower_login else ""
    if text:
        _check(text)
        return FlowerLogin(text)
    if any(environment.get(name) for name in _FLOWERS_OWN):
        return FlowerLogin(None)
    return FlowerLogin(f"{_USER}:{secrets.token_urlsafe(18)}", is_made=True)


def _check(text: str) -> None:
    user, _, password = text.partition(":")
    if not user or not password:
        raise ConfigurationError("PENSTOCK_FLOWER_LOGIN must be user:password")
    # Flower splits its logins at commas, and answers 500 where it has to compare other letters.
    if "," in text or not text.isascii() or not text.isprintable():
        raise ConfigurationError("PENSTOCK_FLOWER_LOGIN may have printable ASCII characters only, and no comma")
