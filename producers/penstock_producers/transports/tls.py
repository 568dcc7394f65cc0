"""
TLS to the broker: what a URL says of it, for each library in its own words.

`rediss://` and `amqps://` check the server's certificate and its name, unless the URL says in words that they should not. No
library does both by itself: kombu trusts everyone over rediss:// and knows options that py-amqp does not, and py-amqp checks
no name that it is not told.

| option of the URL                   | what                                                                 |
|-------------------------------------|----------------------------------------------------------------------|
| `ssl_ca_certs`                      | file of the authorities; without it, those of the system             |
| `ssl_certfile`, `ssl_keyfile`       | files of our certificate and its key                                 |
| `ssl_cert_reqs`                     | `required`; `none` trusts everyone                                   |
| `ssl_check_hostname`                | `true`; `false` takes a good certificate of any name                 |
| `ssl_min_version`                   | the lowest version of TLS, as Python numbers them: 771 is TLS 1.2    |
| `ssl_ciphers`                       | as OpenSSL writes them                                               |
| `ssl_ca_path`, `ssl_ca_data`, `ssl_password` | of redis-py, over rediss:// only                            |
"""

from __future__ import annotations

import logging
import ssl
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from kombu.connection import Connection
from kombu.utils.url import parse_url

__all__ = ["broker_connection", "celery_broker", "check_tls", "redis_tls"]

logger = logging.getLogger(__name__)

_PREFIX = "ssl_"
_FOR_BOTH = ("ca_certs", "certfile", "keyfile", "cert_reqs", "check_hostname", "min_version", "ciphers")
_FOR_REDIS = (*_FOR_BOTH, "ca_path", "ca_data", "password")


def broker_connection(url: str, **options: Any) -> Connection:
    """
    A connection of kombu's, not yet opened, to the broker of a URL; the only way to one.

    Args:
        url: See `check_url`.
        options: Of kombu's `Connection`.

    Raises:
        ValueError: An option of the URL is wrong.
    """
    address, tls = _for_kombu(url)
    return Connection(address, ssl=tls, **options)


def celery_broker(url: str) -> dict[str, Any]:
    """The settings with which all of a Celery application's connections lead to the broker of a URL; errors as above."""
    address, tls = _for_kombu(url)
    return {"broker_url": address, "broker_use_ssl": tls}


def check_tls(url: str) -> None:
    """Raise the errors as above, if there are any."""
    _options(url)


def redis_tls(url: str) -> dict[str, Any]:
    """The arguments of redis-py for TLS; none for redis://. Errors as above."""
    options = _options(url)
    if options is None:
        return {}
    return {f"{_PREFIX}{name}": value for name, value in options.items()}


def _for_kombu(url: str) -> tuple[str, dict[str, Any] | bool]:
    """The URL without its options of TLS, and these: in the URL they would be taken instead, as they stand there."""
    options = _options(url)
    if options is None:
        return url, False
    head, _, query = url.partition("?")
    rest = [(name, value) for name, value in parse_qsl(query) if not name.startswith(_PREFIX)]
    address = f"{head}?{urlencode(rest)}" if rest else head
    if url.startswith("rediss"):
        return address, {f"{_PREFIX}{name}": value for name, value in options.items()}
    return address, _for_amqp(url, options)


def _for_amqp(url: str, options: dict[str, Any]) -> dict[str, Any]:
    found = dict(options)
    checks_name = found.pop("check_hostname")
    if "min_version" in found:
        found["tls_minimum_version"] = found.pop("min_version")
    # py-amqp checks the name that it is told, and none otherwise. Told here, for kombu would call localhost 127.0.0.1.
    return found | ({"server_hostname": urlsplit(url).hostname or "localhost"} if checks_name else {})


def _options(url: str) -> dict[str, Any] | None:
    """What the URL says of TLS and what it does not, without the prefix; None where it is without TLS."""
    scheme = url.partition("://")[0]
    try:
        found = parse_url(url).get("ssl", {})
        options = {name.removeprefix(_PREFIX): value for name, value in found.items()}
        if "min_version" in options:
            options["min_version"] = ssl.TLSVersion(int(options["min_version"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"{scheme}://: an option of the broker's URL is wrong: {exc}") from None
    if scheme not in ("rediss", "amqps"):
        if options:
            raise ValueError(f"{scheme}://: {_PREFIX}{next(iter(options))} is for {scheme}s://, which speaks TLS")
        return None
    known = _FOR_REDIS if scheme == "rediss" else _FOR_BOTH
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"{scheme}://: an option of the broker's URL is wrong: {_PREFIX}{unknown[0]} is not known")
    options = {"cert_reqs": ssl.CERT_REQUIRED, "check_hostname": True} | options
    if options["cert_reqs"] == ssl.CERT_NONE:
        options["check_hostname"] = False
    _check_files(scheme, options)
    if not options["check_hostname"]:
        _warn(f"{scheme}://{urlsplit(url).hostname}", "certificate" if options["cert_reqs"] == ssl.CERT_NONE else "name")
    return options


def _check_files(scheme: str, options: dict[str, Any]) -> None:
    """Read them once now: what ssl says of a file that is not there does not name it."""
    for name in ("ca_certs", "certfile", "keyfile"):
        if name in options:
            try:
                with open(options[name], "rb"):  # noqa: PTH123  # nothing is read
                    pass
            except OSError as exc:
                raise ValueError(f"{scheme}://: {_PREFIX}{name}: {options[name]} cannot be read: {exc.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if "ca_certs" in options:
            context.load_verify_locations(options["ca_certs"])
    except ssl.SSLError:
        raise ValueError(f"{scheme}://: {_PREFIX}ca_certs: {options['ca_certs']} has no certificates (PEM)") from None
    try:
        if "certfile" in options:
            # An empty password: without one a locked key would ask at the terminal.
            context.load_cert_chain(options["certfile"], options.get("keyfile"), options.get("password", ""))
    except ssl.SSLError as exc:
        reason = "the key is not this certificate's" if "KEY_VALUES_MISMATCH" in str(exc) else "no certificate and key (PEM)"
        raise ValueError(f"{scheme}://: {_PREFIX}certfile: {options['certfile']}: {reason}") from None


@cache
def _warn(place: str, what: str) -> None:
    """Once in a process."""
    logger.warning("%s: the broker's %s is not checked, because the URL says so", place, what)
