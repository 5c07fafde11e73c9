#!lua flags=allow-oom
-- Purpose: a daemon says how many consumers of the queue it has, and how much the slow ones missed.
-- Atomic: its last word counts, until its time is over.
-- KEYS: those of common.lua
-- ARGV: 2 daemon, 3 lease ms, 4 "" (none) or the text that inspect.lua gives back, 5 missed since
-- Returns: 1
check_types()
local P, now = KEYS[9], clock()
local all = call('HGETALL', P)
for i = 1, #all, 2 do
  if unpack_bytes('>I6', all[i + 1]) <= now then call('HDEL', P, all[i]) end
end
if ARGV[4] == '' then
  call('HDEL', P, ARGV[2])
else
  call('HSET', P, ARGV[2], pack('>I6', now + tonumber(ARGV[3])) .. ARGV[4])
  call('PEXPIRE', P, ARGV[3])
end
if ARGV[5] ~= '0' then call('HINCRBY', Q, 'missed', ARGV[5]) end
return 1
