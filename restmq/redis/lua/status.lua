#!lua flags=allow-oom
-- Purpose: start or stop the push to consumers, or set the policy.
-- Atomic: a start releases the first waiting messages in the same step.
-- KEYS: the seven of common.lua
-- ARGV: 2 "st" or "pol", 3 the value (st 1 started, 0 stopped; pol 1 broadcast, 2 round robin)
-- Returns: 1
check_types()
local now = clock()
local s = load_state()
if s.epoch == 0 then s.epoch = now end
call('HSET', Q, ARGV[2], ARGV[3])
if ARGV[2] == 'st' then s.started = ARGV[3] ~= '0' end
s[ARGV[2]] = tonumber(ARGV[3])
s.was_set[ARGV[2]] = s[ARGV[2]]
drain(s, now)
save_state(s)
return 1
