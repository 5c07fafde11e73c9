#!lua flags=allow-oom
-- Purpose: delete one waiting message by its id; its place stays, its body is given back.
-- Atomic: it is found and replaced while nothing else moves the list.
-- KEYS: the nine of common.lua
-- ARGV: 2 id
-- Returns: {1 deleted or 0, 1 if it must be called again}
local now, id = clock(), tonumber(ARGV[2])
local s = load_state()
local complete = home(s, now)
save_state(s)
if not complete then return {0, 1} end
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
