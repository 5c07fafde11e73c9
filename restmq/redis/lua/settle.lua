#!lua flags=allow-oom
-- Purpose: what became of messages under a lease: done, not done, or more time.
-- Atomic: of each lease one word counts; of a lease that is over none does, and nothing changes.
-- KEYS: those of common.lua, and that of an idempotency key if there is one: 16 bytes fingerprint, "1" or "0" for each
-- ARGV: 2 "ack", "nack", "extend" or "undo" (never handed out: ready at once, uncounted), 3 delay ms
--       (-1: backoff) or new lease ms, 4 reason, 5 chance in [0, 1), 6.. epoch, number of the lease, id of each (1..1000),
--       last, if there is a key: the fingerprint
-- Returns: {now ms, when the first is due again, ms (0: none), 1 if something is in the outbox, 1 or 0
--           (stale) for each; of a repeat under the key 3 or 2, and 4 if it was used for something else}
local now, verb = tonumber(ARGV[1]), ARGV[2]
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local epoch, J, X = redis.call('HGET', KEYS[1], 'epoch') or '0', KEYS[11], KEYS[12]
redis.call('ZCARD', X)  -- of the right type
local ids, found, taken = {}, {}, {}
for i = 8, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local kept = KEYS[16] and redis.call('GET', KEYS[16])
if kept then
  local answer, same = {string.format('%.0f', now), 0, 0}, string.sub(kept, 1, 16) == ARGV[#ARGV]
  for i = 1, #ids do answer[3 + i] = same and 2 + tonumber(string.sub(kept, 16 + i, 16 + i)) or 4 end
  return answer
end
for i = 1, #ids, 1000 do
  for k, record in ipairs(redis.call('HMGET', J, unpack(ids, i, math.min(i + 999, #ids)))) do
    found[i + k - 1] = record
  end
end
local reply, good = {string.format('%.0f', now), 0, 0}, {}
for i, id in ipairs(ids) do
  local record, ok = found[i], 0
  if record and string.byte(record) == 108 and ARGV[3 + 3 * i] == epoch and not taken[id] then
    local ends, number = struct.unpack('>I6I7', record, 2)
    if number == tonumber(ARGV[4 + 3 * i]) and ends > now then
      ok, taken[id] = 1, true
      good[#good + 1] = {id, string.sub(record, 15), number}
    end
  end
  reply[3 + i] = ok
end
if #good == 0 then return reply end  -- of what changed nothing nothing is kept
local function keep()
  if not KEYS[16] then return end
  local lives = redis.call('HGET', KEYS[1], 'dedup_ms') or '86400000'
  if lives ~= '0' then redis.call('SET', KEYS[16], ARGV[#ARGV] .. table.concat(reply, '', 4), 'PX', lives) end
end
if verb == 'ack' then
  local names = {}
  for i, one in ipairs(good) do names[i] = one[1] end
  redis.call('HDEL', J, unpack(names))
  redis.call('ZREM', X, unpack(names))
  keep()
  -- Some may wait for room: a bound on messages in flight.
  local v = redis.call('HMGET', KEYS[1], 'max_flight', 'wait')
  if v[1] and tonumber(v[2] or 0) > now then redis.call('PUBLISH', KEYS[1] .. ':wake', '1') end
  return reply
end

-- common.lua stands here
-- jobs.lua stands here
check_types()
keep()
if verb == 'extend' then
  local records, leases, ends = {}, {}, now + tonumber(ARGV[3])
  for i, one in ipairs(good) do
    records[2 * i - 1], records[2 * i] = one[1], 'l' .. pack('>I6I7', ends, one[3]) .. one[2]
    leases[2 * i - 1], leases[2 * i] = text(ends), one[1]
  end
  each_slice('HSET', J, records, 2)
  each_slice('ZADD', X, leases, 2)
  reply[2] = text(ends)
  return reply
end
local failed, names, delay, s = {}, {}, tonumber(ARGV[3]), load_state()
for i, one in ipairs(good) do
  local e = one[2]
  if verb == 'undo' then
    e = string.sub(e, 1, 20) .. pack('>I2', unpack_bytes('>I2', e, 21) - 1) .. string.sub(e, 23)
  end
  failed[i] = {e, delay >= 0 and delay or nil, ARGV[4]}
  names[i] = one[1]
end
each_slice('HDEL', J, names, 1)
each_slice('ZREM', X, names, 1)
local rules = retry_rules(s.mode, tonumber(ARGV[5]))
if verb == 'undo' then rules.max = 0 end
reply[2] = text(come_back(rules, now, failed, REJECTED) or 0)
reply[3] = call('EXISTS', K)
drain(s, now)
save_state(s)
wake(now)
return reply
