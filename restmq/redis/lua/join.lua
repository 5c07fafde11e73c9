#!lua flags=allow-oom
-- Purpose: a daemon that has subscribed starts (or, after a lost connection, goes on) to take messages.
-- Atomic: from this moment messages count as handed over only when this daemon confirms them too.
-- KEYS: those of common.lua
-- ARGV: 2 daemon (12 bytes), 3 lease ms, 4 "" or "again", 5 its epoch (0: none), 6 taken pos,
--       7 dealt pos, 8 the highest id it ever saw here, 9.. slot number, room, slot number, room...
-- Returns: {0} call again; else {1 (2: it was known and goes on), epoch, safe pos, its bpos,
--          last dealt pos, pos}
-- A newcomer begins behind what is with a kernel already, wherever that is.
-- A daemon that knows more than the store proves that the store lost time: ids and epoch are lifted.
check_types()
local now, me, seen_id = clock(), ARGV[2], tonumber(ARGV[8])
local s = load_state()
if s.epoch == 0 then s.epoch = now end
local same = text(s.epoch) == ARGV[5]
if seen_id > s.id or (same and (tonumber(ARGV[6]) > s.pos or tonumber(ARGV[7]) > s.rpos)) then
  if s.known == false then call('HSET', Q, 'st', 1) end
  s.id, s.epoch = math.max(seen_id, s.id) + 1000000, math.max(now, s.epoch + 1)
end
local complete = forget_dead(s, now, me, true)
local mine = get_daemon(me)
local start = {safe = s.safe, bsafe = s.bsafe, taken = s.safe, btaken = s.bsafe, last = s.rpos}
local known = 1
if mine and mine.deadline > 0 and ARGV[4] == 'again' then
  start, known = mine, 2
elseif complete and s.live <= now then
  complete = reclaim_all(s)
  start = {safe = s.safe, bsafe = s.bsafe, taken = s.safe, btaken = s.bsafe, last = s.rpos}
end
if not complete then
  save_state(s)
  return {0}
end
drop_slots(me)
start.deadline = now + tonumber(ARGV[3])
set_daemon(me, start)
for i = 9, #ARGV, 2 do
  local slot = me .. ':' .. ARGV[i]
  call('RPUSH', T, slot)
  call('HSET', M, slot, ARGV[i + 1])
end
s.live = math.max(s.live, start.deadline)
local pos, last = s.pos, start.last
drain(s, now)
save_state(s)
return {known, text(s.epoch), text(start.safe), text(start.bsafe), text(last), text(pos)}
