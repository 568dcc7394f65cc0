"""What the embedded servers have in common: a folder, an endpoint that stays, and the hunt for a free port."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from penstock_worker.errors import ConfigurationError
from penstock_worker.stack.ports import Endpoint
from penstock_worker.stack.process import ManagedProcess

__all__ = ["EmbeddedServer"]

#: Port races are lost rarely; so often in a row never.
_START_ATTEMPTS = 5


class EmbeddedServer(ManagedProcess):
    """
    One server in one folder; its address is known from the first start on and stays the same over restarts.

    A new object on the same folder takes the last address again, while nobody else has the port.
    """

    #: What the server writes when another program took its port first.
    port_is_busy_words: ClassVar[str]

    def __init__(self, name: str, folder: Path, *, log: Path) -> None:
        super().__init__(name, log=log.resolve(), cwd=folder.resolve())
        self.folder = folder.resolve()
        self._endpoint_file = self.folder / "endpoint.json"
        self._endpoint: Endpoint | None = None

    @property
    def endpoint(self) -> Endpoint:
        if self._endpoint is None:
            self._endpoint = Endpoint.recall(self._endpoint_file)
        return self._endpoint

    @property
    def url(self) -> str:
        raise NotImplementedError

    def start(self, ready_within_s: float = 60) -> None:
        is_first_start = self._endpoint is None
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            try:
                super().start(ready_within_s)
                break
            except ConfigurationError:
                # A fixed address is part of a restart; only a first start may look for another port.
                if not (is_first_start and attempts_left and self.port_is_busy_words in self.recent_log()):
                    raise
                self._endpoint = None

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.endpoint.remember(self._endpoint_file)
