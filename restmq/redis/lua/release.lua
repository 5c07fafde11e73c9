#!lua flags=allow-oom
-- Purpose: make a leased or delayed message ready at once.
-- Atomic: its lease is over and it waits, in one step.
-- KEYS: those of common.lua
-- ARGV: 2 id
-- Returns: 1, or 0 if it is neither leased nor delayed
-- jobs.lua stands here
check_types()
local now, record = clock(), call('HGET', J, ARGV[2])
if not record then return 0 end
call('HDEL', J, ARGV[2])
call('ZREM', X, ARGV[2])
call('ZREM', D, ARGV[2])
put_back({string.sub(record, 15)})
local s = load_state()
drain(s, now)
save_state(s)
wake(now)
return 1
