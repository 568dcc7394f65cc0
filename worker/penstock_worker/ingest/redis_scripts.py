"""
The Lua scripts of `RedisSource`, each one step that happens wholly or not at all. KEYS are always: queue, leases, leased,
redelivered.

Order inside the scripts matters when the server is full: Redis refuses a script whose FIRST write may need memory. So each
begins with a write that frees some, and workers go on draining a full server.
"""

from __future__ import annotations

__all__ = ["SCRIPTS"]

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "

# ARGV messages, bytes, tag prefix, lease in ms. Returns {message, redeliveries, ...}.
_POP = (
    _NOW
    + """
local taken, size, out = 0, 0, {}
local has_suspects = redis.call('EXISTS', KEYS[4]) == 1
while taken < tonumber(ARGV[1]) and size < tonumber(ARGV[2]) do
    local message = redis.call('RPOP', KEYS[1])
    if not message then break end
    taken, size = taken + 1, size + #message
    local tag = ARGV[3] .. taken
    redis.call('HSET', KEYS[3], tag, message)
    redis.call('ZADD', KEYS[2], now + ARGV[4], tag)
    out[#out + 1] = message
    local times = has_suspects and redis.call('HGET', KEYS[4], redis.sha1hex(message))
    out[#out + 1] = times and tonumber(times) or 0
end
return out
"""
)

# ARGV tags.
_ACK = """
local has_suspects = redis.call('EXISTS', KEYS[4]) == 1
for _, tag in ipairs(ARGV) do
    redis.call('ZREM', KEYS[2], tag)
    if has_suspects then
        local message = redis.call('HGET', KEYS[3], tag)
        if message then redis.call('HDEL', KEYS[4], redis.sha1hex(message)) end
    end
    redis.call('HDEL', KEYS[3], tag)
end
"""

# ARGV "1" if suspect, tags. The first tag ends up at the head of the queue.
_GIVE_BACK = """
for i = #ARGV, 2, -1 do
    redis.call('ZREM', KEYS[2], ARGV[i])
    local message = redis.call('HGET', KEYS[3], ARGV[i])
    if message then
        redis.call('RPUSH', KEYS[1], message)
        redis.call('HDEL', KEYS[3], ARGV[i])
        if ARGV[1] == '1' then
            redis.call('HINCRBY', KEYS[4], redis.sha1hex(message), 1)
            redis.call('EXPIRE', KEYS[4], 86400)
        end
    end
end
"""

# ARGV lease in ms, tags.
_RENEW = (
    _NOW
    + """
redis.call('HDEL', KEYS[3], '')
for i = 2, #ARGV do redis.call('ZADD', KEYS[2], 'XX', now + ARGV[1], ARGV[i]) end
"""
)

# ARGV how many at most. Returns how many leases had run out.
_RESTORE = (
    _NOW
    + """
local tags = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, tag in ipairs(tags) do
    redis.call('ZREM', KEYS[2], tag)
    local message = redis.call('HGET', KEYS[3], tag)
    if message then
        redis.call('RPUSH', KEYS[1], message)
        redis.call('HDEL', KEYS[3], tag)
        redis.call('HINCRBY', KEYS[4], redis.sha1hex(message), 1)
        redis.call('EXPIRE', KEYS[4], 86400)
    end
end
return #tags
"""
)

SCRIPTS = {"pop": _POP, "ack": _ACK, "give_back": _GIVE_BACK, "renew": _RENEW, "restore": _RESTORE}
