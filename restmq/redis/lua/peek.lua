#!lua flags=allow-oom
-- Purpose: look at the oldest waiting message and count the looks.
-- Atomic: the count belongs to the message that is shown.
-- KEYS: those of common.lua
-- ARGV: none more
-- Returns: {now ms, 1 if it must be called again, count, entry} or {now ms, 0|1} when there is none.
local now = clock()
local s = load_state()
local complete = home(s, now)
save_state(s)
if not complete then return {text(now), 1} end
local e = next_run(1)[1]
if not e then return {text(now), 0} end
local id, count = text(entry_id(e)), 1
local seen = call('HMGET', Q, 'peek', 'peeks')
if seen[1] == id then count = tonumber(seen[2]) + 1 end
call('HSET', Q, 'peek', id, 'peeks', count)
if is_gone(e, now) then e = string.sub(e, 1, 19) end
return {text(now), 0, count, e}
