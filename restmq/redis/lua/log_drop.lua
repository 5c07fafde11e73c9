#!lua flags=allow-oom
-- Purpose: take out of the outbox what waits for a queue that refuses it, too long or too much.
-- Atomic: what is gone is counted, once, whichever daemons do it.
-- KEYS: those of log_common.lua
-- ARGV: 2 queue, 3.. places in the outbox (1..1000)
-- Returns: how many were still there.
check_types()
local count = call('XDEL', OUTBOX, unpack(ARGV, 3))
if count > 0 then call('HINCRBY', Q, 'd' .. ARGV[2], count) end
return count
