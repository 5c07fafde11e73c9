#!lua flags=allow-oom
-- Purpose: which queues are to be looked at now, because of what time brings (tick.lua).
-- Atomic: each is given to one daemon; one that does not say that it is done loses it again.
-- KEYS: 1 due: queues by when to look, ms, 2 claimed: queues by when they are due again
-- ARGV: 1 now ms ("0": the server's clock), 2 for how long they are claimed, ms, 3 how many at most
-- Returns: {now ms, when the next is due, ms ("0": none), then for each its name and 1 if its claim was over}
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local upto = string.format('%.0f', now)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', upto, 'LIMIT', 0, ARGV[3])
local lost = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', upto, 'LIMIT', 0, ARGV[3])
local reply, given, seen = {upto, '0'}, {}, {}
for _, names in ipairs({due, lost}) do
  for _, name in ipairs(names) do
    if not seen[name] then
      seen[name] = true
      reply[#reply + 1], reply[#reply + 2] = name, names == lost and 1 or 0
      given[#given + 1], given[#given + 2] = string.format('%.0f', now + tonumber(ARGV[2])), name
    end
  end
end
if #given > 0 then redis.call('ZADD', KEYS[2], unpack(given)) end
if #due > 0 then redis.call('ZREM', KEYS[1], unpack(due)) end
reply[2] = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or '0'
return reply
