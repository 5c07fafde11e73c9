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
  local leased = call('ZREM', KEYS[12], text(id)) == 1
  call('ZREM', KEYS[13], text(id))
  -- Some may wait for room: a bound on messages in flight.
  if leased and tonumber(call('HGET', Q, 'wait') or 0) > now then call('PUBLISH', Q .. ':wake', '1') end
  return {1, 0}
end
-- jobs.lua stands here
local member = call('EXISTS', Y) == 1 and ready_again(id)
if member then
  call('ZREM', Y, member)
  return {is_gone(string.sub(member, 2), now) and 0 or 1, 0}
end
local at = place_of(id)
local e, place, element = call('LINDEX', L, at), nil, nil
if not e or entry_id(e) ~= id then e, at, element, place = folded(id) end
if not e or is_gone(e, now) then return {0, 0} end
local _, created = unpack_bytes(HEAD, e)
if not element or element == e then
  call('LSET', element and F or L, at, pack(HEAD, id, created, 1))
else
  call('LSET', F, at, string.sub(element, 1, 24) .. pack('>I4I4', unpack_bytes('>I4', element, 25) + 1, place)
    .. string.sub(element, 29))
end
return {1, 0}
