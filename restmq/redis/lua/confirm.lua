#!lua flags=allow-oom
-- Purpose: a daemon says what it has handed to its consumers, renews itself, and gets more.
-- Atomic: what all confirmed leaves the window, what came back and what waits is pushed, in one order.
-- KEYS: the seven of common.lua
-- ARGV: 2 daemon, 3 lease ms, 4 epoch, 5 confirmed pos, 6 confirmed bpos, 7 "look" to forget the dead,
--       8 how many slots changed, then for each its number and the room it gained (a new slot: all its
--       room; -1: it is gone), then dealt chunks as in settle()
-- Returns: 0 not known here or another epoch: join again; 1 done; 2 call again
check_types()
local now, me = clock(), ARGV[2]
local s = load_state()
local mine = call('HGET', C, me)
if not mine or text(s.epoch) ~= ARGV[4] then return 0 end
local _, _, _, last = unpack_bytes(DAEMON, mine)
call('HSET', C, me, pack(DAEMON, tonumber(ARGV[5]), tonumber(ARGV[6]), now + tonumber(ARGV[3]), last))
local slots_end = 8 + 2 * tonumber(ARGV[8])
for i = 9, slots_end, 2 do
  local slot, gained = me .. ':' .. ARGV[i], tonumber(ARGV[i + 1])
  if gained < 0 then
    call('LREM', T, 0, slot)
    call('HDEL', M, slot)
  else
    if call('HEXISTS', M, slot) == 0 then call('RPUSH', T, slot) end
    call('HINCRBY', M, slot, gained)
  end
end
settle(s, slots_end + 1)
local complete = forget_dead(s, now, me, ARGV[7] == 'look')
local went = drain(s, now)
save_state(s)
return (complete and not went) and 1 or 2
