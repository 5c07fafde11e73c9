#!lua flags=allow-oom
-- Purpose: a daemon has no consumer of the queue any more.
-- Atomic: what it did not hand over goes to the others or back to the list, in order.
-- KEYS: those of common.lua
-- ARGV: 2 daemon, 3 epoch, 4 safe pos, 5 its bpos, 6 taken pos, 7 its bpos, 8.. dealt chunks as in settle()
-- Returns: 1 done, 0 call again
check_types()
local now, me = clock(), ARGV[2]
local s = load_state()
local mine = get_daemon(me)
if not mine then return 1 end
if mine.deadline > 0 then
  if text(s.epoch) == ARGV[3] then
    mine.safe, mine.bsafe = tonumber(ARGV[4]), tonumber(ARGV[5])
    mine.taken, mine.btaken = tonumber(ARGV[6]), tonumber(ARGV[7])
    set_daemon(me, mine)
    local over = settle(s, me, 8)
    if #over > 0 then
      -- jobs.lua stands here
      leases_over(s, now, over)
    end
    forget_dead(s, now, me, false)
  end
  drop_slots(me)
  mine.deadline = 0
  set_daemon(me, mine)
end
local complete = forget_dead(s, now, me, false)
if s.live <= now then
  complete = reclaim_all(s)
  local said = call('HMGET', Q, 'st', 'pol', 'mode', 'replay', 'replay_n', 'obs', 'missed')
  for i = 1, #said do said.any = said.any or said[i] end
  if complete and s.known == false and not said.any then
    call('DEL', Q)
    return 1
  end
else
  drain(s, now)
end
save_state(s)
return complete and 1 or 0
