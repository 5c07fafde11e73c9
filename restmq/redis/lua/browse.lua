#!lua flags=no-writes
-- Purpose: look at messages without taking them, a page at a time.
-- Atomic: a page is of one moment; from page to page none that stays is left out.
-- KEYS: those of common.lua
-- ARGV: 2 "ready", "leased" or "delayed", 3 "" or the last of the page before: for ready I1 9 - priority, I7 id,
--       else "ms id", 4 how many (1..1000)
-- Returns: {now ms, the last of this page or "" when nothing follows, entries}: ready ones as they lie, others
--          as records of :j (jobs.lua); at most 1 MiB and one.
-- jobs.lua stands here
local now, state, after, wanted = clock(), ARGV[2], ARGV[3], tonumber(ARGV[4])
local reply, size, last = {text(now), ''}, 0, ''
if state == 'ready' then
  -- Both places are read a few at a time: how large the messages are is not known before.
  local from, at = after == '' and '-' or '(' .. after .. '\255', 0
  local first, in_fold = 0, nil
  if after ~= '' and string.byte(after) == 9 then
    first = unpack_bytes('>I7', after, 2) + 1
    at = place_of(first)
  end
  local sorted, listed, a, b, looked = {}, {}, 1, 1, 0
  local function next_two()
    if a > #sorted and from ~= '+' then
      sorted, a = call('ZRANGEBYLEX', Y, from, '+', 'LIMIT', 0, STEP), 1
      from = #sorted > 0 and '(' .. sorted[#sorted] or '+'
    end
    if b > #listed and not in_fold then
      listed, b = call('LRANGE', L, at, at + STEP - 1), 1
      at = at + #listed
      if #listed == 0 then in_fold = math.max(place_in_fold(first), 0) end
    end
    while b > #listed and in_fold do
      local element = call('LINDEX', F, in_fold)
      if not element then break end
      listed, b, in_fold = entries_of(element), 1, in_fold + 1
      while listed[b] and entry_id(listed[b]) < first do b = b + 1 end
    end
    return sorted[a], listed[b] and '\9' .. listed[b]
  end
  local one, two = next_two()
  while one or two do
    if looked > wanted or #reply - 2 == wanted or size >= MAX_BYTES then
      reply[2] = last
      return reply
    end
    local m
    if one and (not two or string.sub(one, 1, 8) < string.sub(two, 1, 8)) then m, a = one, a + 1 else m, b = two, b + 1 end
    last, looked = string.sub(m, 1, 8), looked + 1
    local e = string.sub(m, 2)
    if not is_gone(e, now) then
      reply[#reply + 1], size = e, size + #e
    end
    one, two = next_two()
  end
  return reply
end
local place, at = state == 'leased' and X or D, 0
if after ~= '' then
  local ms, id = string.match(after, '^(%d+) (%d+)$')
  local rank = call('ZSCORE', place, id) == ms and call('ZRANK', place, id)
  at = rank and rank + 1 or call('ZCOUNT', place, '-inf', '(' .. ms)
end
local ids = call('ZRANGE', place, at, at + wanted, 'WITHSCORES')
for i = 1, #ids, 2 do
  if #reply - 2 == wanted or size >= MAX_BYTES then
    reply[2] = last
    break
  end
  local record = call('HGET', J, ids[i])
  if record then reply[#reply + 1], size = record, size + #record end
  last = ids[i + 1] .. ' ' .. ids[i]
end
return reply
