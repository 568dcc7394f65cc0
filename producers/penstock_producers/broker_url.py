"""
The broker's URL, put together from what stands apart: a password, and files for TLS.

| variable                          | what                                                              |
|-----------------------------------|-------------------------------------------------------------------|
| `PENSTOCK_BROKER_URL`             | redis://, rediss://, amqp:// or amqps://                          |
| `PENSTOCK_BROKER_PASSWORD`        | the URL's password, if it has none                                |
| `PENSTOCK_BROKER_TLS_CA`          | file of the authorities that may have signed the broker's certificate |
| `PENSTOCK_BROKER_TLS_CERTIFICATE` | file of our certificate, with its chain                           |
| `PENSTOCK_BROKER_TLS_KEY`         | file of its private key; empty where the certificate's file has it |

All of it travels in the URL, so that whoever connects has all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from penstock_producers import environment

__all__ = ["TlsFiles", "broker_url_from", "join_broker_url", "join_password", "join_query"]

_NAME = "PENSTOCK_BROKER"
_WITH_TLS = ("rediss", "amqps")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    What TLS needs beside a URL.

    Args:
        ca: Authorities that may have signed the server's certificate.
        certificate: Ours, with its chain.
        key: The private key of that; None where it is in the same file.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __bool__(self) -> bool:
        return any((self.ca, self.certificate, self.key))

    def check(self, name: str) -> None:
        """
        See that the files are there.

        Raises:
            ValueError: One cannot be read; the message names its variable, which begins with `name`.
        """
        for variable, path in (("CA", self.ca), ("CERTIFICATE", self.certificate), ("KEY", self.key)):
            if path is None:
                continue
            try:
                path.open("rb").close()
            except OSError as exc:
                raise ValueError(f"{name}_TLS_{variable}: {path} cannot be read: {exc.strerror}") from None
        if self.key and not self.certificate:
            raise ValueError(f"{name}_TLS_KEY: a key alone is of no use, set {name}_TLS_CERTIFICATE to its certificate")


def broker_url_from(environ: Mapping[str, str]) -> str | None:
    """
    What the environment says of the broker; None where it names none.

    Raises:
        ValueError: Something is given twice, or cannot be; the message names the variable.
    """
    url = environment.read(f"{_NAME}_URL", environ)
    if url is None:
        return None
    ca, certificate, key = (environment.read(f"{_NAME}_TLS_{which}", environ) for which in ("CA", "CERTIFICATE", "KEY"))
    files = TlsFiles(_path(ca), _path(certificate), _path(key))
    return join_broker_url(url, environment.read(f"{_NAME}_PASSWORD", environ), files)


def join_broker_url(url: str, password: str | None, files: TlsFiles) -> str:
    """
    A broker's URL with its password and its files.

    Raises:
        ValueError: Something is given twice, or does not fit; the message names the variable, and no secret.
    """
    if password:
        url = join_password(url, password, _NAME)
    if not files:
        return url
    scheme = url.partition("://")[0]
    if scheme not in _WITH_TLS:
        raise ValueError(f"{_NAME}_TLS_...: {scheme}:// is without TLS, write {scheme}s:// in {_NAME}_URL")
    files.check(_NAME)
    given = {"ssl_ca_certs": files.ca, "ssl_certfile": files.certificate, "ssl_keyfile": files.key}
    return join_query(url, {name: str(path.absolute()) for name, path in given.items() if path}, _NAME)


def join_password(url: str, password: str, name: str) -> str:
    """
    Put a password into a URL that has none.

    Raises:
        ValueError: It has one; the message calls the URL `<name>_URL`.
    """
    scheme, _, rest = url.partition("://")
    end = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    user, at, host = rest[:end].rpartition("@")
    if ":" in user:
        raise ValueError(f"{name}_PASSWORD is set, and {name}_URL has a password too: keep one")
    del at  # without a user there is none, and the password needs one
    return f"{scheme}://{user}:{quote(password, safe='')}@{host}{rest[end:]}"


def join_query(url: str, options: Mapping[str, str], name: str) -> str:
    """
    Put options into a URL that does not have them.

    Raises:
        ValueError: It has one of them; the message calls the URL `<name>_URL`.
    """
    query = url.partition("?")[2]
    names = {part.partition("=")[0] for part in query.split("&")}
    if twice := sorted(names & options.keys()):
        raise ValueError(f"{name}_TLS_... is set, and {name}_URL has {twice[0]} too: keep one")
    words = "&".join(f"{option}={quote(value, safe='/')}" for option, value in options.items())
    return f"{url}{'&' if query else '' if '?' in url else '?'}{words}"


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
