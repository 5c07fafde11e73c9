#!lua flags=allow-oom
-- Purpose: a daemon has no consumer of the queue any more.
-- Atomic: what it did not hand over goes to the others or back to the list, in order.
-- KEYS: the seven of common.lua
-- ARGV: 2 daemon, 3 epoch, 4 confirmed pos, 5 confirmed bpos, 6.. dealt chunks as in settle()
-- Returns: 1 done, 0 call again
check_types()
local now, me = clock(), ARGV[2]
local s = load_state()
local mine = call('HGET', C, me)
if not mine then return 1 end
if text(s.epoch) == ARGV[3] then
  call('HSET', C, me, pack(DAEMON, tonumber(ARGV[4]), tonumber(ARGV[5]), now + 1, s.rpos))
  settle(s, 6)
end
forget_dead(s, now, me, false)
drop_slots(me)
local complete = reclaim_dealt(s, me)
if complete then
  call('HDEL', C, me)
  forget_dead(s, now, me, false)
  if s.live <= now then
    complete = reclaim_all(s)
    if complete and s.known == false and not call('HGET', Q, 'st') and not call('HGET', Q, 'pol') then
      call('DEL', Q)
      return 1
    end
  else
    drain(s, now)
  end
end
save_state(s)
return complete and 1 or 0
