-- Purpose: what the scripts of work queues share, behind common.lua; scripts.py puts it there.
-- Atomic: it is part of the script that uses it, never run alone.
-- KEYS: 11 :j id -> record: "l" (leased) or "d" (delayed), I6 ms until when, I7 number of the lease
--       or 0, entry, 12 :x leased ids by the ms
--       their lease ends, 13 :d delayed ids by the ms they are due, 14 :k outbox
-- ARGV: belongs to the script.
-- Returns: nothing.
--
-- Attempts  how often a message was handed out, with the time it is leased now.
-- Outbox    what moves to another queue, by a number that rises: I7 number, I1 why (0 dead letter whose
--           lease ended, 1 redrive, 2 dead letter that was given back), I2 length of the target's name (0: the daemon knows), name, entry.

local J, X, D, K = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local SLICE = 400                                        -- pairs one call gets
local DEAD, REDRIVE, REJECTED = 0, 1, 2

-- Pairs to a command, in slices: HSET key name value..., ZADD key score member...
local function each_slice(command, key, values, step)
  for i = 1, #values, SLICE * step do
    call(command, key, unpack(values, i, math.min(i + SLICE * step - 1, #values)))
  end
end

-- attempts, priority, headers, last error, plain payload
local function parts(e)
  if string.byte(e, 20) ~= 255 then return 0, 0, '', '', string.sub(e, 20) end
  local attempts, priority, headers, failure = unpack_bytes('>I2I1I2I2', e, 21)
  return attempts, priority, string.sub(e, 28, 27 + headers),
    string.sub(e, 28 + headers, 27 + headers + failure), string.sub(e, 28 + headers + failure)
end

local function with_parts(e, attempts, priority, headers, failure, payload)
  return string.sub(e, 1, 19) .. '\255' .. pack('>I2I1I2I2', attempts, priority, #headers, #failure)
    .. headers .. failure .. payload
end

local function into_outbox(why, target, entries)
  if #entries == 0 then return end
  local last, members = call('HINCRBY', Q, 'kseq', #entries), {}
  for i, e in ipairs(entries) do
    local number = last - #entries + i
    members[2 * i - 1] = text(number)
    members[2 * i] = pack('>I7I1I2', number, why, #target) .. target .. e
  end
  each_slice('ZADD', K, members, 2)
end

-- How failures of this queue are treated; `chance` in [0, 1) is the daemon's, for the jitter.
local function retry_rules(mode, chance)
  local v = call('HMGET', Q, 'max_attempts', 'backoff_first_ms', 'backoff_factor', 'backoff_max_ms',
    'backoff_jitter', 'dead')
  return {max = tonumber(v[1] or (mode == JOBS and 5 or 0)), first = tonumber(v[2] or 1000),
    factor = tonumber(v[3] or 2), most = tonumber(v[4] or 300000), jitter = tonumber(v[5] or 0.2),
    dead = v[6] or '', chance = chance}
end

local function backoff(rules, attempts, id)
  local ms = rules.first
  for _ = 2, attempts do
    ms = ms * rules.factor
    if ms >= rules.most then break end
  end
  local chance = (rules.chance + id * 0.618034) % 1
  return math.floor(math.min(ms, rules.most) * (1 + rules.jitter * (2 * chance - 1)))
end

-- Messages that were handed out and are not done: {entry, delay ms (nil: backoff), reason} each; `why` is DEAD
-- or REJECTED. Those that had
-- their last attempt become dead letters, the others are ready or delayed. Returns when the first
-- is due (nil: none is delayed).
local function come_back(rules, now, failed, why)
  local ready, dead, records, due, first = {}, {}, {}, {}, nil
  for _, one in ipairs(failed) do
    local e, delay, reason = one[1], one[2], one[3]
    local attempts, priority, headers, failure, payload = parts(e)
    if reason ~= '' then e = with_parts(e, attempts, priority, headers, reason, payload) end
    if is_gone(e, now) then
      call('HINCRBY', Q, 'expired', 1)
    elseif rules.max > 0 and attempts >= rules.max then
      dead[#dead + 1] = e
    else
      delay = delay or backoff(rules, attempts, entry_id(e))
      if delay <= 0 then
        ready[#ready + 1] = e
      else
        local id, at = text(entry_id(e)), now + delay
        records[#records + 1], records[#records + 2] = id, 'd' .. pack('>I6I7', at, 0) .. e
        due[#due + 1], due[#due + 2] = text(at), id
        if not first or at < first then first = at end
      end
    end
  end
  put_back(ready)
  each_slice('HSET', J, records, 2)
  each_slice('ZADD', D, due, 2)
  table.sort(dead, function(a, b) return entry_id(a) < entry_id(b) end)
  if rules.dead ~= '-' then into_outbox(why, rules.dead, dead) end
  return first
end

-- Leases of messages that a stream handed out are over: each counts as an attempt.
local function leases_over(s, now, entries)
  local failed = {}
  for i, e in ipairs(entries) do
    local attempts, priority, headers, failure, payload = parts(e)
    failed[i] = {with_parts(e, math.min(attempts + 1, 65535), priority, headers, failure, payload), 0, ''}
  end
  come_back(retry_rules(s.mode, 0), now, failed, DEAD)
  wake(now)
end

-- The index of the first entry of the list whose id is not below this one: ids rise along it, so
-- interpolate a few times, then halve.
local function place_of(id)
  local low, high, tries = 0, call('LLEN', L), 0
  while low < high do
    local at = math.floor((low + high) / 2)
    if tries < 4 then
      local first, last = entry_id(call('LINDEX', L, low)), entry_id(call('LINDEX', L, high - 1))
      if id <= first then return low end
      if id > last then return high end
      at = low + math.floor((id - first) * (high - 1 - low) / (last - first))
    end
    tries = tries + 1
    if entry_id(call('LINDEX', L, at)) < id then low = at + 1 else high = at end
  end
  return low
end

-- The member of :y with this id, or nil.
local function ready_again(id)
  for rank = 0, 9 do
    local place = string.char(rank)
    local found = call('ZRANGEBYLEX', Y, '[' .. place .. pack('>I7', id), '(' .. place .. pack('>I7', id + 1))[1]
    if found then return found end
  end
end

-- When the next lease ends or the next message is due, "0": none.
local function next_due()
  local lease, due = call('ZRANGE', X, 0, 0, 'WITHSCORES')[2], call('ZRANGE', D, 0, 0, 'WITHSCORES')[2]
  if not lease then return due or '0' end
  if not due then return lease end
  return tonumber(due) < tonumber(lease) and due or lease
end
