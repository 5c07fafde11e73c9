#!lua flags=allow-oom
-- Purpose: a daemon says what it has handed to its consumers, renews itself, and gets more.
-- Atomic: what all confirmed leaves the window, what came back and what waits is pushed, in one order.
-- KEYS: those of common.lua
-- ARGV: 2 daemon, 3 lease ms, 4 epoch, 5 safe pos, 6 its bpos, 7 taken pos, 8 its bpos,
--       9 "look" to forget the dead, 10 how many slots changed, then for each its number and the room
--       it gained (a new slot: all its room; -1: it is gone), then dealt chunks as in settle()
-- Returns: 0 not known here or another epoch: join again; 1 done; 2 call again
check_types()
local now, me = clock(), ARGV[2]
local s = load_state()
local mine = get_daemon(me)
if not mine or mine.deadline == 0 or text(s.epoch) ~= ARGV[4] then return 0 end
mine.safe, mine.bsafe = tonumber(ARGV[5]), tonumber(ARGV[6])
mine.taken, mine.btaken = tonumber(ARGV[7]), tonumber(ARGV[8])
mine.deadline = now + tonumber(ARGV[3])
set_daemon(me, mine)
local slots_end, gone = 10 + 2 * tonumber(ARGV[10]), {}
for i = 11, slots_end, 2 do
  local slot, gained = me .. ':' .. ARGV[i], tonumber(ARGV[i + 1])
  if gained < 0 then
    gone[#gone + 1] = slot
  else
    if call('HEXISTS', M, slot) == 0 then call('RPUSH', T, slot) end
    call('HINCRBY', M, slot, gained)
  end
end
remove_slots(gone)
local over = settle(s, me, slots_end + 1)
if #over > 0 then
  -- jobs.lua stands here
  leases_over(s, now, over)
end
local complete = forget_dead(s, now, me, ARGV[9] == 'look')
local went = drain(s, now)
save_state(s)
return (complete and not went) and 1 or 2
