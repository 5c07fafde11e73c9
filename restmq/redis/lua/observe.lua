#!lua flags=allow-oom
-- Purpose: somebody observes the queue for a while, or nobody any more.
-- Atomic: from this moment add.lua publishes copies, until the time is over.
-- KEYS: those of common.lua
-- ARGV: 2 lease ms (0: nobody here observes any more; others renew theirs)
-- Returns: the last id
check_types()
local last = call('HGET', Q, 'id') or '0'
local lease = tonumber(ARGV[2])
if lease == 0 then
  -- Others may observe it: theirs ends by itself. A queue that is nothing else goes at once.
  if call('HLEN', Q) == 1 then call('HDEL', Q, 'obs') end
else
  call('HSET', Q, 'obs', text(clock() + lease))
end
return last
