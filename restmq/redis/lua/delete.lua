#!lua flags=allow-oom
-- Purpose: delete one message by its id, whether it waits, is leased or delayed. In the list its place
--          stays, its body is given back.
-- Atomic: it is found and replaced while nothing else moves the list.
-- KEYS: those of common.lua
-- ARGV: 2 id
-- Returns: {1 deleted or 0, 1 if it must be called again}
local now, id = clock(), tonumber(ARGV[2])
local s = load_state()
local complete = home(s, now)
save_state(s)
if not complete then return {0, 1} end
check_types()
if call('HDEL', KEYS[11], text(id)) == 1 then
  call('ZREM', KEYS[12], text(id))
  call('ZREM', KEYS[13], text(id))
  return {1, 0}
end
if call('EXISTS', Y) == 1 then
  for rank = 0, 9 do
    local from = string.char(rank) .. pack('>I7', id)
    local found = call('ZRANGEBYLEX', Y, '[' .. from, '(' .. string.char(rank) .. pack('>I7', id + 1))[1]
    if found then
      call('ZREM', Y, found)
      return {is_gone(string.sub(found, 2), now) and 0 or 1, 0}
    end
  end
end
-- Ids rise along the list: interpolate a few times, then halve.
local low, high, tries = 0, call('LLEN', L) - 1, 0
while low <= high do
  local at = math.floor((low + high) / 2)
  if tries < 4 then
    local first, last = entry_id(call('LINDEX', L, low)), entry_id(call('LINDEX', L, high))
    if id < first or id > last then return {0, 0} end
    if last > first then at = low + math.floor((id - first) * (high - low) / (last - first)) end
  end
  tries = tries + 1
  local e = call('LINDEX', L, at)
  local found = entry_id(e)
  if found == id then
    if is_gone(e, now) then return {0, 0} end
    local _, created = unpack_bytes(HEAD, e)
    call('LSET', L, at, pack(HEAD, id, created, 1))
    return {1, 0}
  end
  if found < id then low = at + 1 else high = at - 1 end
end
return {0, 0}
