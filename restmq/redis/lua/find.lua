#!lua flags=no-writes
-- Purpose: look at one message by its id.
-- Atomic: where it is belongs to one moment.
-- KEYS: those of common.lua
-- ARGV: 2 id
-- Returns: {now ms, "ready", "leased", "delayed" or "" (not here), ms (the lease's end, or when it is due; 0),
--           entry}
-- jobs.lua stands here
local now, id = clock(), tonumber(ARGV[2])
local record = call('HGET', J, text(id))
if record then
  local state = string.byte(record) == 108 and 'leased' or 'delayed'
  return {text(now), state, text((unpack_bytes('>I6', record, 2))), string.sub(record, 15)}
end
local member = ready_again(id)
local e = member and string.sub(member, 2) or call('LINDEX', L, place_of(id))
if not e or entry_id(e) ~= id then e = folded(id) end
if e and entry_id(e) == id and not is_gone(e, now) then return {text(now), 'ready', '0', e} end
return {text(now), '', '0', ''}
