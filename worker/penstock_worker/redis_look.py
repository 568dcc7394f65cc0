"""
The messages in the queue of events on Redis or Valkey, read without taking any.

Two places hold them: the list, and the hash of what workers have in hand (see `ingest.redis_source`). A message that moves
meanwhile is seen all the same. First what is in hand is read, in case it is given back; then the list, from the left, where new
messages come in (they shift the others away from the reader, never past it); then what is in hand once more, in case it was
taken. What was acknowledged meanwhile is in the database: ask that afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import redis

from penstock_schemas.wire import event_id_prefix

__all__ = ["Seen", "read_messages"]

#: Bytes of messages that Redis goes through in one call, and the most messages; it serves nobody else meanwhile.
PAGE_BYTES, PAGE_MESSAGES = 4 * 1024 * 1024, 1_000
#: Messages of the first page, before their size is known.
FIRST_PAGE = 10
#: Bytes from either end of a message that are fetched: the headers are in one of them, the body is between.
END_BYTES = 4 * 1024

_CUT = """
local out, size, keep = {}, 0, tonumber(ARGV[1])
local function add(place, m)
    size = size + #m
    if #m > 2 * keep then m = string.sub(m, 1, keep) .. '\\n' .. string.sub(m, -keep) end
    out[#out + 1] = tostring(place)
    out[#out + 1] = m
end
"""
# KEYS the list. ARGV bytes of an end, first, last. Returns {bytes, {index, message, ...}}.
_LIST_PAGE = (
    _CUT
    + """
for at, m in ipairs(redis.call('LRANGE', KEYS[1], ARGV[2], ARGV[3])) do add(ARGV[2] + at - 1, m) end
return {size, out}
"""
)
# KEYS the hash. ARGV bytes of an end, cursor, how many. Returns {bytes, {tag, message, ...}, next cursor}.
_HASH_PAGE = (
    _CUT
    + """
local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
for at = 1, #page[2], 2 do add(page[2][at], page[2][at + 1]) end
return {size, out, page[1]}
"""
)

# Inside a JSON text a quote is escaped: what a body says in clear text is not taken for a header.
_EPOCH = re.compile(rb'"epoch":\s*"([0-9a-fA-F-]{36})"')
_SEQ = re.compile(rb'"seq":\s*(\d{1,15})\b')
_COUNT = re.compile(rb'"count":\s*(\d{1,6})\b')
_PRODUCER = re.compile(rb'"producer":\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One message of a producer of ours; one without events is a heartbeat.

    `place` is its index in the list, 0 being the newest, or the tag of the worker that has it in hand.
    """

    where: Literal["queue", "worker"]
    place: str
    producer: str
    epoch: UUID
    seq: int
    count: int

    def holds(self, event: UUID) -> bool:
        """Whether an event is in it."""
        prefix, seq = str(event)[:24], int(str(event)[24:], 16)
        return self.seq <= seq < self.seq + self.count and prefix == event_id_prefix(self.epoch)


def read_messages(client: redis.Redis, queue: str) -> Iterator[Seen]:
    """
    Every message that has our headers, at least once; see the module for the order.

    Raises:
        redis.RedisError: Redis cannot be reached, or this user may not read.
    """
    held = f"{queue}:leased"
    for place, text in _hash(client, held):
        yield from _read("worker", place, text)
    for place, text in _list(client, queue):
        yield from _read("queue", place, text)
    for place, text in _hash(client, held):
        yield from _read("worker", place, text)


def _read(where: Literal["queue", "worker"], place: bytes, text: bytes) -> Iterator[Seen]:
    epoch, seq, count, producer = (pattern.search(text) for pattern in (_EPOCH, _SEQ, _COUNT, _PRODUCER))
    if not (epoch and seq and count):
        return
    try:
        name = str(json.loads(producer[1])) if producer else ""
        yield Seen(where, place.decode(), name, UUID(epoch[1].decode()), int(seq[1]), int(count[1]))
    except ValueError:
        return  # a stranger's


def _list(client: redis.Redis, key: str) -> Iterator[tuple[bytes, bytes]]:
    script = client.register_script(_LIST_PAGE)
    start, page = 0, FIRST_PAGE
    while True:
        size, found = script(keys=[key], args=[END_BYTES, start, start + page - 1])
        if not found:
            return
        yield from zip(found[::2], found[1::2], strict=True)
        start += page
        page = _next_page(size, len(found) // 2)


def _hash(client: redis.Redis, key: str) -> Iterator[tuple[bytes, bytes]]:
    script = client.register_script(_HASH_PAGE)
    cursor, page = b"0", FIRST_PAGE
    while True:
        size, found, cursor = script(keys=[key], args=[END_BYTES, cursor, page])
        yield from zip(found[::2], found[1::2], strict=True)
        if cursor == b"0":
            return
        page = _next_page(size, len(found) // 2)


def _next_page(size: int, messages: int) -> int:
    """How many messages of the size seen last make a page."""
    return max(1, min(PAGE_MESSAGES, PAGE_BYTES * max(1, messages) // max(1, size)))
