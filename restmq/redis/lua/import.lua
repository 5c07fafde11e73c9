#!lua
-- Purpose: take over messages of an old RestMQ under the numbers they had, and note which.
-- Atomic: messages and note are written together, so nothing is taken over twice.
-- KEYS: those of common.lua, and last :o, the notes
-- ARGV: 2 which old broker (field of :o), 3 its note as it was read, 4 as it is from now on, 5 status 1 or 0
--       or "", 6 policy 1 or 2 or "", 7 numbers used so far (0: leave them), 8 n x (I7 number, I6 ttl ms, 0: for
--       ever), 9.. n payloads (0..1000)
-- Returns: {1, or 0 when the note is another and nothing was done; how many kept their number}
-- A number that the queue has passed already is replaced by the next. Status and policy are set only where
-- the queue has none.
local now, n, kept, entries = clock(), #ARGV - 8, 0, {}
local notes = table.remove(KEYS)
if (call('HGET', notes, ARGV[2]) or '') ~= ARGV[3] then return {0, 0} end
check_types()
local s = load_state()
if s.epoch == 0 then s.epoch = now end
for field, value in pairs({st = ARGV[5] == '' and n > 0 and '1' or ARGV[5], pol = ARGV[6]}) do
  if value ~= '' and call('HSETNX', Q, field, value) == 1 then
    s[field], s.was_set[field] = tonumber(value), tonumber(value)
    if field == 'st' then s.started = value ~= '0' end
  end
end
for i = 1, n do
  local number, ttl = struct.unpack('>I7I6', ARGV[8], 13 * i - 12)
  if number > s.id then s.id, kept = number, kept + 1 else s.id = s.id + 1 end
  entries[i] = pack(HEAD, s.id, now, ttl > 0 and now + ttl or 0) .. ARGV[8 + i]
end
append(entries, 1)
s.id = math.max(s.id, tonumber(ARGV[7]))
drain(s, now)
save_state(s)
call('HSET', notes, ARGV[2], ARGV[4])
return {1, kept}
