"""
The database's URL, put together from what stands apart: a password, and files for TLS. libpq reads all of it from the URL.

Without any of these the URL means what it says: TLS where the server offers it, and nobody checked, unless `sslmode` is in it.
"""

from __future__ import annotations

import re

from penstock_producers.broker_url import TlsFiles, join_password, join_query

__all__ = ["SYSTEM", "check_database_url", "join_database_url"]

#: In place of a file: the authorities that the system trusts (libpq 16 and newer).
SYSTEM = "system"

_NAME = "PENSTOCK_DATABASE"
_SCHEMES = ("postgresql://", "postgres://")
_ESCAPED = "signs like / : @ % of a password are escaped in a URL, or the password is given as PENSTOCK_DATABASE_PASSWORD"


def check_database_url(url: str) -> None:
    """
    Refuse what libpq would, because it would say it with a part of the password.

    Raises:
        ValueError: What is wrong, without the URL.
    """
    if not url.startswith(_SCHEMES):
        raise ValueError(f"must begin with {' or '.join(_SCHEMES)}")
    if re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise ValueError(f"has a % without two hexadecimal digits behind it; {_ESCAPED}")
    place = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    if not all(re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host) for host in place.split(",")):
        raise ValueError(f"has a wrong address or port; {_ESCAPED}")


def join_database_url(url: str, password: str | None, files: TlsFiles) -> str:
    """
    A database's URL with its password and its files; TLS is a must then, and the certificate's name as well.

    Raises:
        ValueError: Something is given twice, or does not fit; the message names the variable, and no secret.
    """
    query = url.partition("?")[2]
    if password:
        if re.search(r"(?:^|&)password=", query):
            raise ValueError(f"{_NAME}_PASSWORD is set, and {_NAME}_URL has a password too: keep one")
        url = join_password(url, password, _NAME)
    if not files:
        return url
    is_of_system = str(files.ca) == SYSTEM
    (TlsFiles(None, files.certificate, files.key) if is_of_system else files).check(_NAME)
    mode = re.search(r"(?:^|&)sslmode=([^&]*)", query)
    if mode and mode[1] in ("disable", "allow", "prefer"):
        raise ValueError(f"{_NAME}_TLS_... is set, and {_NAME}_URL says sslmode={mode[1]}, which may do without: leave it out")
    if not files.ca and "sslrootcert=" not in query and mode is None:
        raise ValueError(f"{_NAME}_TLS_CERTIFICATE: whom is it for? set {_NAME}_TLS_CA to the file of the server's CA")
    options = {} if mode else {"sslmode": "verify-full"}
    if files.ca:
        options["sslrootcert"] = SYSTEM if is_of_system else str(files.ca.absolute())
    if files.certificate:
        options["sslcert"] = str(files.certificate.absolute())
        # libpq would look for a key in the home folder.
        options["sslkey"] = str((files.key or files.certificate).absolute())
    return join_query(url, options, _NAME)
