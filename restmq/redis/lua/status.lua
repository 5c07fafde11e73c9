#!lua flags=allow-oom
-- Purpose: start or stop the push to consumers, or change other settings.
-- Atomic: a start releases the first waiting messages in the same step.
-- KEYS: those of common.lua
-- ARGV: 2 field, 3 value, 4 field, 5 value...: st (1 started, 0 stopped, 2 only the push is), pol (1 broadcast, 2 round
--       robin), mode (1 open, 2 jobs), replay (ms), replay_n (messages)
-- Returns: 1
check_types()
local now = clock()
local s = load_state()
if s.epoch == 0 then s.epoch = now end
for i = 2, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  call('HSET', Q, field, value)
  if field == 'st' then s.started = value ~= '0' and value ~= '2' end
  s[field] = tonumber(value)
  s.was_set[field] = s[field]
end
drain(s, now)
save_state(s)
return 1
