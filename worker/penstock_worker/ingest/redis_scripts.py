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
# Some at a time: a call costs more than what it does for a message. What is over the bytes goes back, so that they are overshot
# by one message only. A command that fails does not undo what was done before it: so the keys are looked at first, by commands
# that need no memory, and what cannot be leased goes back.
_POP = (
    _NOW
    + """
redis.call('ZREM', KEYS[2], '')
redis.call('HDEL', KEYS[3], '')
redis.call('HDEL', KEYS[4], '')
local most, room, has_suspects = tonumber(ARGV[1]), tonumber(ARGV[2]), redis.call('EXISTS', KEYS[4]) == 1
local out, leased, leases, largest = {}, {}, {}, nil
while #out / 2 < most and room > 0 do
    local count = largest and math.min(16, most - #out / 2, math.max(1, math.floor(room / largest))) or 1
    local messages = redis.call('RPOP', KEYS[1], count)
    if not messages then break end
    for place, message in ipairs(messages) do
        if room <= 0 then
            for last = #messages, place, -1 do redis.call('RPUSH', KEYS[1], messages[last]) end
            break
        end
        local tag = ARGV[3] .. #out / 2 + 1
        leased[#leased + 1], leased[#leased + 2] = tag, message
        leases[#leases + 1], leases[#leases + 2] = now + ARGV[4], tag
        local times = has_suspects and redis.call('HGET', KEYS[4], redis.sha1hex(message))
        out[#out + 1], out[#out + 2] = message, times and tonumber(times) or 0
        room, largest = room - #message, math.max(largest or 1, #message)
    end
end
if #out > 0 then
    local done = redis.pcall('HSET', KEYS[3], unpack(leased))
    if type(done) ~= 'table' then done = redis.pcall('ZADD', KEYS[2], unpack(leases)) end
    if type(done) == 'table' then
        for place = #leased, 2, -2 do
            redis.call('RPUSH', KEYS[1], leased[place])
            redis.call('HDEL', KEYS[3], leased[place - 1])
        end
        return done
    end
end
return out
"""
)

# ARGV tags.
_ACK = """
redis.call('ZREM', KEYS[2], unpack(ARGV))
if redis.call('EXISTS', KEYS[4]) == 1 then
    for _, tag in ipairs(ARGV) do
        local message = redis.call('HGET', KEYS[3], tag)
        if message then redis.call('HDEL', KEYS[4], redis.sha1hex(message)) end
    end
end
redis.call('HDEL', KEYS[3], unpack(ARGV))
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
