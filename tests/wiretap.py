"""
What a client asks of PostgreSQL, counted at its own connection: libpq writes down every message of the protocol.

Counts do not depend on how fast the machine is, nor on what else it does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.pq import Trace

__all__ = ["Traffic", "tapped"]

#: What a message has beside its content: the length itself.
_LENGTH_BYTES = 4


@dataclass
class Traffic:
    """
    What went over a connection.

    Args:
        statements: Executed, each run of a prepared one as well.
        transactions: Ended; a statement outside of one is one by itself.
        round_trips: Times that the client waited for the server: at the end of a statement, or of a pipeline, and before COPY.
        copied_bytes: Sent by COPY.
        errors: What the server refused.
    """

    statements: int = 0
    transactions: int = 0
    round_trips: int = 0
    copied_bytes: int = 0
    errors: int = 0

    def note(self, line: str) -> None:
        """One line of libpq's trace: direction, length, name and content, between tabs."""
        sender, length, name, *content = line.rstrip("\n").split("\t")
        if sender == "F":
            self.statements += name in ("Query", "Execute")
            self.copied_bytes += int(length) - _LENGTH_BYTES if name == "CopyData" else 0
        elif name == "CopyInResponse":
            self.round_trips += 1
        elif name == "ReadyForQuery":
            self.round_trips += 1
            self.transactions += content[0].strip() == "I"
        else:
            self.errors += name == "ErrorResponse"


@contextmanager
def tapped(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[Traffic]:
    """Count what goes over the connection while the block runs; the figures are there when it ends."""
    traffic = Traffic()
    with tempfile.TemporaryFile("w+") as file:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield traffic
        finally:
            connection.pgconn.untrace()
        file.seek(0)
        for line in file:
            traffic.note(line)
