#!lua flags=no-writes
-- Purpose: a page of events behind an id: of some topics by the index, or of the whole log.
-- Atomic: a snapshot; what is appended later has higher ids.
-- KEYS: those of log_common.lua
-- ARGV: 2 epoch of the reader's cursor (0: of any), 3 id behind which it reads, 4 limit, 5 "1": the newest
--       first, 6 "1": say what was trimmed, 7 only lower ids than this (0: all), 8.. topics (none: the whole log)
-- Returns: now, epoch, last id, id behind which was read, 1 if the cursor was of another life of the
--          store, id up to which was read (0: to the end; ever lower ones with the newest first),
--          what is trimmed behind that id: topic, id ..., entries ...
local now, epoch, after, limit = clock(), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local FEW = 16  -- entries that are fetched at once
local newest, say, below = ARGV[5] == '1', ARGV[6] == '1', tonumber(ARGV[7])
local s, reset, more = load_log(), 0, 0
if epoch ~= 0 and epoch ~= s.epoch then
  reset, after = 1, epoch == s.was and math.min(after, s.upto) or 0
elseif after > s.id then
  reset, after = 1, 0
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

local function before(a, b)
  if newest then return a.id > b.id end
  return a.id < b.id
end

-- Of several sorted parts the first `limit`; past the end of a part that was cut nothing is known.
local function merge(parts)
  local all, bound = {}, nil
  for _, part in ipairs(parts) do
    if part.cut then
      local last = part[#part]
      if bound == nil or before(last, bound) then bound = last end
      more = 1
    end
    for _, item in ipairs(part) do all[#all + 1] = item end
  end
  table.sort(all, before)
  local out = {}
  for _, item in ipairs(all) do
    if #out == limit or (bound and before(bound, item)) then
      more = 1
      break
    end
    out[#out + 1] = item
  end
  return out
end

-- Of one of several topics only a share is looked up; `merge` ends where a part was cut.
local share = math.min(limit, math.max(FEW, math.ceil(2 * limit / math.max(1, #ARGV - 7))))

local function by_topic(topic)
  local low, high = '[' .. topic .. '\0' .. pack('>I7', after + 1), '(' .. topic .. '\1'
  if below > 0 then high = '(' .. topic .. '\0' .. pack('>I7', below) end
  local found
  if newest then
    found = call('ZREVRANGEBYLEX', INDEX, high, low, 'LIMIT', 0, share + 1)
  else
    found = call('ZRANGEBYLEX', INDEX, low, high, 'LIMIT', 0, share + 1)
  end
  local part = {cut = #found > share}
  for i = 1, math.min(#found, share) do
    part[i] = {id = (unpack_bytes('>I7', found[i], #topic + 2)), class = byte(found[i], -1)}
  end
  return part
end

-- In steps of few entries, of one where they are large: each is copied whole before its size is known.
local function by_class(class)
  local key, part, size, step = KEYS[ENTRIES + class], {cut = false}, 0, 1
  local low, high = text(after + 1), below > 0 and text(below - 1) or '+'
  while true do
    local count, found = math.min(step, limit - #part), nil
    if newest then
      found = call('XREVRANGE', key, high, low, 'COUNT', count)
    else
      found = call('XRANGE', key, low, high, 'COUNT', count)
    end
    local largest = 0
    for _, item in ipairs(found) do
      local e = item[2][2]
      part[#part + 1] = {id = (unpack_bytes('>I7', e)), entry = e}
      size, largest = size + #e, math.max(largest, #e)
    end
    if #found < count then return part end
    if #part == limit or size > MAX_BYTES then
      part.cut = true
      return part
    end
    if newest then high = '(' .. found[count][1] else low = '(' .. found[count][1] end
    step = largest * FEW > MAX_BYTES and 1 or FEW
  end
end

local parts = {}
if #ARGV > 7 then
  for i = 8, #ARGV do parts[#parts + 1] = by_topic(ARGV[i]) end
else
  for class = 0, CLASSES - 1 do parts[#parts + 1] = by_class(class) end
end
local entries, size, reached = {}, 0, 0
for _, item in ipairs(merge(parts)) do
  local e = item.entry
  if e == nil then
    local id = text(item.id)
    local found = call('XRANGE', KEYS[ENTRIES + item.class], id, id)
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
  reached = item.id
end
if more == 0 then reached = 0 end
return {text(now), text(s.epoch), text(s.id), text(after), reset, text(reached), trimmed, entries}
