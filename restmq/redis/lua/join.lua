#!lua flags=allow-oom
-- Purpose: a daemon that has subscribed starts (or, after a lost connection, goes on) to take messages.
-- Atomic: from this moment messages count as handed over only when this daemon confirms them too.
-- KEYS: the seven of common.lua
-- ARGV: 2 daemon (12 bytes), 3 lease ms, 4 "" or "again", 5.. slot number, room, slot number, room...
-- Returns: {0} call again; else {1 (2: it was known and goes on), epoch, pos confirmed, bpos confirmed,
--          last dealt pos, pos}
check_types()
local now, me = clock(), ARGV[2]
local s = load_state()
if s.epoch == 0 then s.epoch = now end
local complete = forget_dead(s, now, me, true)
local mine = call('HGET', C, me)
local confirmed, bconfirmed, last, known = s.done, s.bdone, s.rpos, 1
if mine and ARGV[4] == 'again' then
  local c, b, _, l = unpack_bytes(DAEMON, mine)
  confirmed, bconfirmed, last, known = c, b, l, 2
elseif complete and s.live <= now then
  complete = reclaim_all(s)
  confirmed, bconfirmed, last = s.done, s.bdone, s.rpos
end
if not complete then
  save_state(s)
  return {0}
end
drop_slots(me)
call('HSET', C, me, pack(DAEMON, confirmed, bconfirmed, now + tonumber(ARGV[3]), last))
for i = 5, #ARGV, 2 do
  local slot = me .. ':' .. ARGV[i]
  call('RPUSH', T, slot)
  call('HSET', M, slot, ARGV[i + 1])
end
s.live = math.max(s.live, now + tonumber(ARGV[3]))
local pos = s.pos
drain(s, now)
save_state(s)
return {known, text(s.epoch), text(confirmed), text(bconfirmed), text(last), text(pos)}
