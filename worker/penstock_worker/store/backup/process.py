"""One program of PostgreSQL's that runs, and what it says."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from penstock_worker.errors import ConfigurationError

__all__ = ["Running", "run"]

#: `pg_dump: error: query failed: ERROR:  ...`, `psql:<stdin>:12: ERROR:  ...`
_COMPLAINT = re.compile(r"(?:\berror|\bERROR|\bFATAL|\bPANIC):\s*")


class Running:
    """A program, and the first thing it complained about; later complaints follow from it, as a rule."""

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None] | None) -> None:
        self._process = process
        self._on_line = on_line
        self._complaint: str | None = None
        self._last_line = ""
        # It must be read while the program runs, which would stop at a full pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def finish(self) -> None:
        """
        Wait until it has ended well.

        Raises:
            ConfigurationError: It has not; one line.
        """
        code = self._process.wait()
        self._reader.join()
        if code == 0:
            return
        name = Path(str(self._process.args[0])).name  # type: ignore[index]  # a list was given
        if code < 0:
            raise ConfigurationError(f"{name} was ended by signal {-code}")
        raise ConfigurationError(f"{name} says: {self._complaint or self._last_line or f'nothing, and ended with {code}'}")

    def end(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                _close(stream)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            line = raw.decode(errors="replace").strip()
            self._last_line = line or self._last_line
            if self._complaint is None and _COMPLAINT.search(line):
                self._complaint = _COMPLAINT.split(line)[-1]
            if self._on_line is not None:
                self._on_line(line)


@contextmanager
def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    on_line: Callable[[str], None] | None = None,
) -> Iterator[Running]:
    """A program while the block runs; ended with it, whatever happens."""
    process = subprocess.Popen(list(words), env=dict(environment), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    running = Running(process, on_line)
    try:
        yield running
    finally:
        running.end()


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        # What was still to be written to a program that has ended.
        return
