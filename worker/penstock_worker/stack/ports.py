"""Free ports on the loopback interface, and remembering them so that addresses stay the same from run to run."""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from penstock_worker.errors import ConfigurationError

__all__ = ["LOOPBACK", "Endpoint", "find_free_port", "is_port_free"]

#: The embedded servers listen nowhere else.
LOOPBACK = "127.0.0.1"

#: Below what systems give to outgoing connections (Linux from 32768, others from 49152). One of those could take the port of a
#: server that is just restarting, and a client that looks for that server there could even connect to itself.
_PORTS = range(10_000, 32_000)


@dataclass(frozen=True)
class Endpoint:
    """Where an embedded server listens and what opens it; kept in its data folder, readable by its owner only."""

    port: int
    password: str

    @classmethod
    def recall(cls, file: Path) -> Endpoint:
        """The endpoint of the last run while its port is free, else one with a new port; the password never changes."""
        try:
            last = cls(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            last = cls(find_free_port(), secrets.token_hex(16))
        return last if is_port_free(last.port) else cls(find_free_port(), last.password)

    def remember(self, file: Path) -> None:
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(self)))


def find_free_port() -> int:
    """
    A port that nobody listens on now.

    Another program may take it before ours does; who starts a server with it tries again with another one then.
    """
    chosen = secrets.SystemRandom().sample(_PORTS, k=1_000)
    port = next((port for port in chosen if is_port_free(port)), None)
    if port is None:
        raise ConfigurationError(f"no free port on {LOOPBACK} between {_PORTS.start} and {_PORTS.stop}")
    return port


def is_port_free(port: int, address: str = LOOPBACK) -> bool:
    """Whether a server could listen there now; also False where the address is not this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # What a server does too: connections of an earlier run that are still closing do not make a port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
