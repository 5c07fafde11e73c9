-- Purpose: what the scripts of event logs share; scripts.py puts it in front of each log_*.lua.
-- Atomic: it is part of the script that uses it, never run alone.
-- KEYS: 1 hash of the log, 2 :i index, 3 :g what was trimmed, 4 :b bindings, 5 :o outbox,
--       6.. :e0 :e1 ... entries, a stream for each class of retention, the last :k idempotency keys
--       by when they are forgotten (see keys.py)
-- ARGV: 1 now in ms ("0": the server's clock); the rest belongs to the script.
-- Returns: nothing.
--
-- Hash     id (the last given), epoch, lives (the latest 32 epochs before: I7 epoch, I7 its last id that is here),
--          run (of the server that gave it), leaps (see `leap`),
--          k and a digest (of an idempotency key: the fingerprint, 16 bytes, and I7 the first id),
--          gone (see :g), bv (version of the bindings; a store that lost time never
--          gives one again), b0 b1 ... (bytes in each class), r2 r3 ... (of each class of a rule the
--          limits it had last, 18 bytes, and the pattern it belongs to), d and a queue's name (how many
--          events for it were dropped from the outbox).
-- Entry    I7 id, I6 created ms, I6 expires ms (0: never), payload.
-- Payload  I1 n, topic (n bytes), I1 n, content type, I2 n, headers, body.
-- Index    members topic, \0, I7 id, I1 class, all scored 0: byte order is topic, then id.
-- Trimmed  topic -> highest id of it that is kept no more. Of the TRIMMED latest topics; what was
--          forgotten of others is at or below the field gone.
-- Chunk    'e', I7 epoch, I7 prev, I7 last, I4 n, n x I4 lengths, entries: covers prev+1 .. last.
-- Limits   I6 age ms (0: for ever), I6 count, I6 bytes (0: as many as there are).
-- Rules    of a daemon, in its own order, counted from 0: limits, I2 n, pattern (n bytes). The first two are
--          the classes 0 and 1 of what no rule chooses; of which class another is, `find_classes` knows.

local Q, INDEX, GONE, BINDINGS, OUTBOX, ENTRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 6
local CLASSES, ONCE = #KEYS - 6, KEYS[#KEYS]
local MAX_BYTES = 1048576      -- of one answer
local STEP, STEP_BYTES = 64, 4194304
local ONCE_MS, ONCE_MOST = 86400000, 100000  -- for how long keys are remembered, and how many
local TRIMMED = 4096           -- topics of which is known up to where they are trimmed
local HEAD = 19                -- bytes of an entry before its payload
local call, pack, unpack_bytes = redis.call, struct.pack, struct.unpack
local sub, byte, char = string.sub, string.byte, string.char
local RUN = 4                  -- so many members of a topic leave the index as one range

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Numbers above 2^31 must not reach Redis in the form 1.7e+12. (%d is a long, and faster than %.0f.)
local function text(n) return string.format('%d', n) end

-- A script that writes in several places looks at the types of all first: nothing is rolled back.
-- `classes`: a byte for each class that it writes to (nil: all); each look costs a microsecond.
local function check_types(classes)
  for i, key in ipairs(KEYS) do
    local is_entries = i >= ENTRIES and i < #KEYS
    if not (is_entries and classes) or string.find(classes, char(i - ENTRIES), 1, true) then
      local kind = call('TYPE', key).ok
      local wanted = 'stream'
      if i == 1 or i == 4 then
        wanted = 'hash'
      elseif i == 2 or i == 3 or i == #KEYS then
        wanted = 'zset'
      end
      if kind ~= 'none' and kind ~= wanted then
        error({err = 'WRONGTYPE ' .. key .. ' is a ' .. kind .. ', not a ' .. wanted})
      end
    end
  end
end

local function load_log()
  local v = call('HMGET', Q, 'id', 'epoch', 'lives', 'gone', 'bv', 'run')
  local bindings = v[5] or (call('EXISTS', BINDINGS) == 1 and 'lost' or '0')
  return {known = v[1], id = tonumber(v[1] or 0), epoch = tonumber(v[2] or 0), lives = v[3] or '',
          gone = tonumber(v[4] or 0), bindings = bindings, run = v[6]}
end

-- The store lost time if somebody has seen a higher id or a later epoch: ids must rise all the same,
-- and who reads must learn of it by another epoch.
local function mend(s, now, floor, epoch)
  if s.known == false then
    if floor == 0 and epoch == 0 then return end
    s.known, s.id, s.epoch = 'new', floor > 0 and floor + 1000000 or 0, math.max(now, epoch + 1)
  elseif s.id < floor or s.epoch < epoch then
    s.lives = sub(s.lives .. pack('>I7I7', s.epoch, s.id), -32 * 14)
    s.id, s.epoch = math.max(s.id, floor) + 1000000, math.max(now, s.epoch + 1, epoch + 1)
  else
    return
  end
  call('HSET', Q, 'id', text(s.id), 'epoch', text(s.epoch), 'lives', s.lives)
end

-- Ids go on above `least` in the same epoch. A cursor in between is of events that are lost (log_read.lua),
-- one below misses nothing. The latest 32 leaps are kept: I7 last id before, I7 last id that was left out.
local LEAP = 1000000

local function leap(s, least)
  local leaps = (call('HGET', Q, 'leaps') or '') .. pack('>I7I7', s.id, least)
  s.id = least
  call('HSET', Q, 'id', text(s.id), 'leaps', sub(leaps, -32 * 14))
  call('PUBLISH', Q .. ':out', 'e' .. pack('>I7I7I7I4', s.epoch, s.id, s.id, 0))
end

-- Another server process than the one that gave the last id: what that one gave in its last moments may
-- not have reached the disk, or the copy, and nobody may remember it. `mend` knows of what somebody remembers.
local function look_at_run(s, run)
  if run == '' or s.run == run then return end
  if s.run and s.id > 0 then leap(s, s.id + LEAP) end
  s.run = run
  call('HSET', Q, 'run', run)
end

local function topic_of(e) return sub(e, HEAD + 2, HEAD + 1 + byte(e, HEAD + 1)) end

local function index_member(e, class)
  return topic_of(e) .. '\0' .. sub(e, 1, 7) .. char(class)
end

local function is_over(e, now)
  local expires = unpack_bytes('>I6', e, 14)
  return expires > 0 and expires <= now
end

-- Forget idempotency keys whose time is over, and the oldest where they are too many.
local function forget_keys(now)
  local old = call('ZRANGEBYSCORE', ONCE, '-inf', text(now), 'LIMIT', 0, 100)
  if #old == 0 and call('ZCARD', ONCE) > ONCE_MOST then old = call('ZRANGE', ONCE, 0, 9) end
  for _, digest in ipairs(old) do
    call('ZREM', ONCE, digest)
    call('HDEL', Q, 'k' .. digest)
  end
end

-- The rules of a daemon by their number; nil if there are not at least the first two.
local function read_rules(data)
  local rules, n, at = {}, 0, 1
  while at + 19 <= #data do
    local size = unpack_bytes('>I2', data, at + 18)
    rules[n] = {limits = sub(data, at, at + 17), pattern = sub(data, at + 20, at + 19 + size)}
    n, at = n + 1, at + 20 + size
  end
  if n >= 2 then return rules, n end
end

-- A class is its pattern's as long as it holds events of it, whatever rules a daemon has and in which order.
-- Those of `used` that have no class are given one that holds nothing; where all hold something they are in
-- the ordinary class until one is free. What no rule here is for keeps the limits it had last.
-- Returns the class of each rule, the limits of each class, and whether a rule found none.
local function find_classes(rules, count, used)
  local class_of, limits, full = {[0] = 0, 1}, {[0] = rules[0].limits, rules[1].limits}, false
  local fields, of_pattern = {}, {}
  for class = 2, CLASSES - 1 do fields[class - 1] = 'r' .. class end
  local kept = call('HMGET', Q, unpack(fields))
  for i, value in ipairs(kept) do
    if value then limits[i + 1], of_pattern[sub(value, 19)] = sub(value, 1, 18), i + 1 end
  end
  local taken = {}
  for n = 2, count - 1 do
    class_of[n] = of_pattern[rules[n].pattern]
    if class_of[n] then taken[class_of[n]] = true end
  end
  for n in pairs(used) do
    if class_of[n] == nil then
      for class = 2, CLASSES - 1 do
        if not taken[class] and call('EXISTS', KEYS[ENTRIES + class]) == 0 then
          class_of[n], taken[class] = class, true
          break
        end
      end
    end
  end
  for n = count - 1, 2, -1 do  -- of two rules for one pattern the first counts
    local class, value = class_of[n], rules[n].limits .. rules[n].pattern
    if class then
      limits[class] = rules[n].limits
      if kept[class - 1] ~= value then call('HSET', Q, 'r' .. class, value) end
    elseif used[n] then
      class_of[n], full = 0, true
    end
  end
  return class_of, limits, full
end

-- Take what a class holds too much of from its oldest end: at most `most` entries.
-- Returns how many are gone.
local function trim(class, now, limits, most)
  local key = KEYS[ENTRIES + class]
  local count = call('XLEN', key)
  if count == 0 then return 0 end
  local _, most_count, most_bytes = unpack_bytes('>I6I6I6', limits)
  local size = tonumber(call('HGET', Q, 'b' .. class) or 0)
  local gone, last, over, taken, step, large = 0, nil, true, 0, 1, false
  local topics = {}  -- to the entries of each that go, in order
  while over and gone < most and taken < STEP_BYTES do
    -- Each is copied whole: no more than are too many, else a few, and more if those go, too.
    local too_many = most_count > 0 and last and not large and count - gone - most_count or 0
    local found = call('XRANGE', key, last and '(' .. last or '-', '+', 'COUNT',
                       math.min(STEP, math.max(step, too_many)))
    if #found == 0 then break end
    large = #found[#found][2][2] * STEP > STEP_BYTES
    step = large and 1 or step * 2
    for _, item in ipairs(found) do
      local e = item[2][2]
      over = is_over(e, now) or (most_count > 0 and count - gone > most_count)
        or (most_bytes > 0 and size > most_bytes)
      if not over or gone == most then break end
      gone, last, size, taken = gone + 1, item[1], size - #e, taken + #e
      local topic = topic_of(e)
      local those = topics[topic]
      if those then those[#those + 1] = e else topics[topic] = {e} end
    end
  end
  if gone == 0 then return 0 end
  local members, ids = {}, {}
  for topic, those in pairs(topics) do
    local e = those[#those]
    ids[#ids + 1], ids[#ids + 2] = text((unpack_bytes('>I7', e))), topic
    local low, high = '[' .. topic .. '\0', '[' .. index_member(e, class)
    -- Events of the topic that another class keeps for longer may lie between.
    if #those >= RUN and call('ZLEXCOUNT', INDEX, low, high) == #those then
      call('ZREMRANGEBYLEX', INDEX, low, high)
    else
      for _, one in ipairs(those) do members[#members + 1] = index_member(one, class) end
    end
  end
  for i = 1, #members, 500 do
    call('ZREM', INDEX, unpack(members, i, math.min(i + 499, #members)))
  end
  for i = 1, #ids, 500 do call('ZADD', GONE, 'GT', unpack(ids, i, math.min(i + 499, #ids))) end
  local forgotten = call('ZCARD', GONE) - TRIMMED
  if forgotten > 0 then
    local out = call('ZPOPMIN', GONE, forgotten)
    -- Of a class that keeps events for longer the ids may be lower than what was forgotten before.
    local before = tonumber(call('HGET', Q, 'gone') or 0)
    call('HSET', Q, 'gone', text(math.max(before, tonumber(out[#out]))))
  end
  if gone == count then
    call('DEL', key)
    size = 0
  else
    local ms = string.match(last, '^%d+')
    call('XTRIM', key, 'MINID', '=', text(tonumber(ms) + 1))
  end
  call('HSET', Q, 'b' .. class, text(size))
  return gone
end
