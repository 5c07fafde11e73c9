#!lua flags=no-writes
-- Purpose: a page of events behind an id: of some topics by the index, or of the whole log.
-- Atomic: a snapshot; what is appended later has higher ids.
-- KEYS: those of log_common.lua
-- ARGV: 2 epoch of the reader's cursor (0: of any, 1: of before the first event), 3 id behind which it reads, 4 limit, 5 "1": the newest
--       first, 6 "1": say what was trimmed, 7 only lower ids than this (0: all), 8.. topics (none: the whole log)
-- Returns: now, epoch, last id, id behind which was read, 1 if the cursor was of another life of the
--          store, id up to which was read (0: to the end; ever lower ones with the newest first),
--          what is trimmed behind that id: topic, id ..., entries ...
local now, epoch, after, limit = clock(), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local newest, say, below = ARGV[5] == '1', ARGV[6] == '1', tonumber(ARGV[7])
local s, reset, more = load_log(), 0, 0
if epoch > 1 and epoch ~= s.epoch then
  local known = false
  for i = 1, #s.lives, 14 do  -- they only rise: a store that went back before a life knows nothing of it
    local life, upto = unpack_bytes('>I7I7', s.lives, i)
    if life == epoch then known, after = true, math.min(after, upto) end
  end
  reset, after = 1, known and after or 0
elseif after > s.id then
  reset, after = 1, 0
else
  local leaps = call('HGET', Q, 'leaps') or ''
  for i = 1, #leaps, 14 do
    local before, least = unpack_bytes('>I7I7', leaps, i)
    if after > before and after < least then
      reset, after = 1, before
      break
    end
  end
end

local trimmed = {}
if say then
  if #ARGV > 7 then
    for i = 8, #ARGV do
      local score = call('ZSCORE', GONE, ARGV[i])
      if score then
        trimmed[#trimmed + 1] = ARGV[i]
        trimmed[#trimmed + 1] = text(tonumber(score))
      end
    end
  else
    trimmed = call('ZRANGEBYSCORE', GONE, '(' .. text(after), '+inf', 'WITHSCORES')
    for i = 2, #trimmed, 2 do trimmed[i] = text(tonumber(trimmed[i])) end
  end
  if s.gone > after then  -- of which topic nobody knows any more
    trimmed[#trimmed + 1] = ''
    trimmed[#trimmed + 1] = text(s.gone)
  end
end

local class_of, entry_of = {}, {}

-- Of several sorted parts the first `limit` ids; past the end of a part that was cut nothing is known.
local function merge(parts)
  local all, bound = {}, nil
  for _, part in ipairs(parts) do
    if part.cut then
      local last = part[#part]
      if bound == nil or (newest and last > bound) or (not newest and last < bound) then bound = last end
      more = 1
    end
    for _, id in ipairs(part) do all[#all + 1] = id end
  end
  table.sort(all)
  local out, from, to, step = {}, 1, #all, 1
  if newest then from, to, step = #all, 1, -1 end
  for i = from, to, step do
    local id = all[i]
    if #out == limit or (bound and ((newest and id < bound) or (not newest and id > bound))) then
      more = 1
      break
    end
    out[#out + 1] = id
  end
  return out
end

local function by_topic(topic, most)
  local low, high = '[' .. topic .. '\0' .. pack('>I7', after + 1), '(' .. topic .. '\1'
  if below > 0 then high = '(' .. topic .. '\0' .. pack('>I7', below) end
  local found
  if newest then
    found = call('ZREVRANGEBYLEX', INDEX, high, low, 'LIMIT', 0, most + 1)
  else
    found = call('ZRANGEBYLEX', INDEX, low, high, 'LIMIT', 0, most + 1)
  end
  local part = {cut = #found > most}
  for i = 1, math.min(#found, most) do
    local id = unpack_bytes('>I7', found[i], #topic + 2)
    part[i], class_of[id] = id, byte(found[i], -1)
  end
  return part
end

-- In small steps, of one where entries are large, since what is fetched and does not fit into the
-- answer was fetched in vain: large entries may lie anywhere among small ones.
local function by_class(class)
  local key, part, size, few = KEYS[ENTRIES + class], {cut = false}, 0, 1
  local low, high = text(after + 1), below > 0 and text(below - 1) or '+'
  while #part < limit do
    local step, found = math.min(few, limit - #part), nil
    if newest then
      found = call('XREVRANGE', key, high, low, 'COUNT', step)
    else
      found = call('XRANGE', key, low, high, 'COUNT', step)
    end
    for _, item in ipairs(found) do
      local e = item[2][2]
      local id = unpack_bytes('>I7', e)
      part[#part + 1], entry_of[id], size = id, e, size + #e
    end
    if #found < step then return part end
    if size > MAX_BYTES then break end
    few = #found[step][2][2] * 16 > MAX_BYTES and 1 or 16
    if newest then high = text(part[#part] - 1) else low = text(part[#part] + 1) end
  end
  part.cut = true
  return part
end

local parts = {}
if #ARGV > 7 then
  local topics = #ARGV - 7
  local most = math.min(limit, math.max(16, math.ceil(2 * limit / topics)))
  for i = 8, #ARGV do parts[i - 7] = by_topic(ARGV[i], topics == 1 and limit or most) end
else
  for class = 0, CLASSES - 1 do parts[class + 1] = by_class(class) end
end
local entries, size, reached = {}, 0, 0
for _, id in ipairs(merge(parts)) do
  local e = entry_of[id]
  if e == nil then
    local found = call('XRANGE', KEYS[ENTRIES + class_of[id]], text(id), text(id))
    e = found[1] and found[1][2][2]
  end
  if e then
    if size > 0 and size + #e > MAX_BYTES then
      more = 1
      break
    end
    size = size + #e
    entries[#entries + 1] = e
  end
  reached = id
end
if more == 0 then reached = 0 end
return {text(now), text(s.epoch), text(s.id), text(after), reset, text(reached), trimmed, entries}
