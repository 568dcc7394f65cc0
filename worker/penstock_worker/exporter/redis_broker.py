"""The look at Redis or Valkey."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import redis

from penstock_producers.transports.redis_url import redis_arguments
from penstock_worker.ingest.blame import one_line
from penstock_worker.settings import Settings
from penstock_worker.store.measures import Figures

__all__ = ["RedisLook", "message_time"]

logger = logging.getLogger(__name__)

#: Seconds that one command may take. Three of them fit into what a scrape waits.
COMMAND_S = 1.2
#: Messages from the oldest on among which one with a time is looked for: heartbeats have none, nor have strangers' messages.
OLDEST_MESSAGES = 10
#: Bytes of a message that are fetched. The first event's version stands in front of its data, behind the headers.
HEAD_BYTES = 4 * 1024
#: Bytes of messages that Redis goes through for it.
MOST_BYTES = 8 * 1024 * 1024

# KEYS the list. ARGV messages, bytes of each, bytes of all. Returns the heads, the oldest message's first.
_HEADS = """
local heads, size = {}, 0
for at = 1, tonumber(ARGV[1]) do
    local message = redis.call('LINDEX', KEYS[1], -at)
    if not message then break end
    heads[at] = string.sub(message, 1, tonumber(ARGV[2]))
    size = size + #message
    if size > tonumber(ARGV[3]) then break end
end
return heads
"""

# Inside a JSON text a quote is escaped: what a body says in clear text is not taken for a header.
_BODY = re.compile(rb'"body":\s*"([0-9A-Za-z+/]*)')
_EVENT = re.compile(rb'"events":\s*\[\s*\{\s*"type":\s*"[^"]*",\s*"op":\s*"[a-z]*",\s*"version":\s*(\d{10,17})\b')
_EPOCH = re.compile(rb'"epoch":\s*"([0-9a-fA-F-]{36})"')


class RedisLook:
    """The `Look` at Redis. Its connection stays open from look to look, and redis-py opens it anew after an error."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        arguments = redis_arguments(settings.broker, socket_timeout_s=COMMAND_S, connect_timeout_s=COMMAND_S)
        self._client = redis.Redis(**arguments)
        self._queue, self._clock = settings.queue, clock
        self._refused: set[str] = set()

    def take(self) -> Figures:
        """See `Look`. What this user may not ask is left out."""
        begin = time.perf_counter()
        self._client.ping()
        figures: Figures = {"penstock_redis_ping_seconds": time.perf_counter() - begin}
        for name, ask in (("messages", self._messages), ("oldest message", self._oldest), ("server", self._server)):
            figures |= self._try(name, ask)
        return figures

    def give_up(self) -> None:
        """See `Look`. Every command has its own time limit."""

    def close(self) -> None:
        """See `Look`."""
        self._client.close()

    def _try(self, name: str, ask: Callable[[], Figures]) -> Figures:
        try:
            figures = ask()
        except redis.ResponseError as exc:
            if name not in self._refused:
                logger.warning("%s: not told, Redis says: %s", name, one_line(exc), extra={"action": "measure_refused"})
            self._refused.add(name)
            return {}
        self._refused.discard(name)
        return figures

    def _messages(self) -> Figures:
        waiting, held = self._client.llen(self._queue), self._client.hlen(f"{self._queue}:leased")
        return {"penstock_queue_messages": {"waiting": int(waiting), "held": int(held)}}

    def _oldest(self) -> Figures:
        heads: Any = self._client.eval(_HEADS, 1, self._queue, str(OLDEST_MESSAGES), str(HEAD_BYTES), str(MOST_BYTES))
        if not heads:
            return {"penstock_queue_oldest_seconds": 0}
        at = _first_known(map(message_time, heads))
        return {} if at is None else {"penstock_queue_oldest_seconds": max(0.0, self._clock() - at)}

    def _server(self) -> Figures:
        return _server_figures(self._client.info())


def message_time(head: bytes) -> float | None:
    """
    When a message was published at the earliest, in seconds since 1970; None where its beginning does not tell.

    It is the version of its first event. A service may date an event back; its message is not older than the process that
    published it, whose start is in the epoch.
    """
    body, epoch = _BODY.search(head), _EPOCH.search(head)
    if body is None or epoch is None:
        return None
    whole = len(body[1]) // 4 * 4
    event = _EVENT.search(base64.b64decode(body[1][:whole]))
    if event is None:
        return None
    try:
        started = (UUID(epoch[1].decode()).int >> 80) / 1e3
    except ValueError:
        return None
    return max(int(event[1]) / 1e6, started)


def _first_known(times: Iterable[float | None]) -> float | None:
    return next((at for at in times if at is not None), None)


def _server_figures(info: Mapping[str, Any]) -> Figures:
    """Only what this server has in its answer: some services hide parts of it."""
    figures: Figures = {}
    for name, key in (
        ("penstock_redis_memory_bytes", "used_memory"),
        ("penstock_redis_memory_limit_bytes", "maxmemory"),
        ("penstock_redis_evicted_keys_total", "evicted_keys"),
        ("penstock_redis_clients", "connected_clients"),
    ):
        if key in info:
            figures[name] = float(info[key])
    if "maxmemory_policy" in info:
        figures["penstock_redis_evicts"] = float(info["maxmemory_policy"] != "noeviction")
    if "aof_enabled" in info:
        is_written = info.get("aof_last_write_status", "ok") == "ok"
        figures["penstock_redis_persists"] = float(bool(info["aof_enabled"]) and is_written)
    return figures
