"""
Loading a dump into a database, whatever its format: a stream of SQL that psql runs.

    file -> (decrypt) -> pg_restore, or gunzip -> psql

Even an archive goes through psql: pg_restore 17 and newer begins with a setting that older servers do not know, and an only
half-read archive must never be committed, which pg_restore's own --single-transaction would do with a half-written pipe.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from penstock_worker.errors import ConfigurationError
from penstock_worker.store.backup.header import Format
from penstock_worker.store.backup.process import run
from penstock_worker.store.backup.programs import Programs, as_words
from penstock_worker.store.backup.seal import open_stream

__all__ = ["load_dump"]

_CHUNK_BYTES = 256 * 1024
#: Servers before this one do not know what newer programs set.
_TRANSACTION_TIMEOUT_SINCE = 17
_TRANSACTION_TIMEOUT = b"SET transaction_timeout = 0;\n"
#: The settings stand within so many lines from the beginning.
_PREAMBLE_LINES = 40


def load_dump(
    programs: Programs,
    url: str,
    dump: Path,
    format: Format,
    *,
    server_major: int,
    identities: Sequence[Any] = (),
    options: Sequence[str] = (),
    is_whole_or_nothing: bool = False,
) -> None:
    """
    Run a dump's SQL in an empty database.

    Args:
        programs: See `find_programs`.
        url: The database.
        dump: The file.
        format: What it is.
        server_major: The version of the database's server.
        identities: Secret keys, where it is encrypted.
        options: Words for pg_restore: what to leave out of an archive.
        is_whole_or_nothing: In one transaction, which ends well only when all of it has been read.

    Raises:
        ConfigurationError: It failed; one line.
    """
    database, environment = as_words(url)
    if not is_whole_or_nothing:
        # Every statement is a transaction, and need not wait for the disk: what comes after the last one does.
        environment["PGOPTIONS"] = "-c synchronous_commit=off"
    words = [programs.psql, "--dbname", database, "--no-password", "--no-psqlrc", "--quiet"]
    words += ["--set=ON_ERROR_STOP=1", "--file=-"]
    with ExitStack() as stack:
        psql = stack.enter_context(run(words, environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        try:
            if is_whole_or_nothing:
                psql.input.write(b"BEGIN;\n")
            with _sql_of(programs, dump, format, identities, options) as source:
                _copy(source, psql.input, server_major)
            if is_whole_or_nothing:
                psql.input.write(b"COMMIT;\n")
            psql.input.close()
        except BrokenPipeError:
            # It has ended before its input did, and says why.
            pass
        psql.finish()


@contextmanager
def _sql_of(
    programs: Programs, dump: Path, format: Format, identities: Sequence[Any], options: Sequence[str]
) -> Iterator[IO[bytes]]:
    with _decrypted(dump, identities) if identities else dump.open("rb") as data:
        if format == "plain":
            with _unzipped(data) as text:
                yield text
            return
        with run([programs.pg_restore, "--file=-", *options], os.environ, stdin=data) as pg_restore:
            yield pg_restore.output
            pg_restore.finish()


@contextmanager
def _unzipped(data: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(data) as text:
            yield cast("IO[bytes]", text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise ConfigurationError(f"the dump is damaged: {exc}") from exc


@contextmanager
def _decrypted(dump: Path, identities: Sequence[Any]) -> Iterator[IO[bytes]]:
    """A pipe that a thread decrypts into, for the reader is another program, or wants to pull."""
    read_end, write_end = os.pipe()
    errors: list[Exception] = []
    feeder = threading.Thread(target=_feed, args=(dump, write_end, list(identities), errors), daemon=True)
    feeder.start()
    try:
        with os.fdopen(read_end, "rb") as reader:
            yield reader
    finally:
        # The pipe has no reader any more, so that the thread does not wait for one.
        feeder.join()
        if errors:
            # What the reader has to say of half a dump follows from this.
            raise errors[0]


def _feed(dump: Path, write_end: int, identities: list[Any], errors: list[Exception]) -> None:
    try:
        with dump.open("rb") as source, os.fdopen(write_end, "wb") as pipe:
            open_stream(source, pipe, identities)
    except BrokenPipeError:
        # Its reader has ended, and says why.
        return
    except (ConfigurationError, OSError) as exc:
        errors.append(exc)


def _copy(source: IO[bytes], sink: IO[bytes], server_major: int) -> None:
    for _ in range(_PREAMBLE_LINES):
        line = source.readline()
        if line != _TRANSACTION_TIMEOUT or server_major >= _TRANSACTION_TIMEOUT_SINCE:
            sink.write(line)
    shutil.copyfileobj(source, sink, _CHUNK_BYTES)
