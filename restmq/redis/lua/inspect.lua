#!lua flags=no-writes
-- Purpose: the numbers of a queue.
-- Atomic: they belong to one moment.
-- KEYS: those of common.lua
-- ARGV: 2 how many of the newest waiting ids to add
-- Returns: {waiting, st or "", pol or "", in flight, daemons, last id, mode or "", replay ms,
--           replay messages, missed by slow consumers, epoch, {presence texts}, place, leased, delayed, when the
--           oldest waiting was put in ms or 0, redelivered, dropped, expired, now ms, {all fields of the hash}, newest id, ...}
-- Place: whoever comes now gets nothing broadcast in order up to this id, and all above it.
-- Messages that are out with daemons that are all gone count as waiting: a pop would find them.
local now = clock()
local s = load_state()
local v = call('HMGET', Q, 'st', 'pol', 'mode', 'replay', 'replay_n', 'missed', 'fold')
local here = {}
for _, value in ipairs(call('HVALS', KEYS[9])) do
  if unpack_bytes('>I6', value) > now then here[#here + 1] = string.sub(value, 7) end
end
local waiting, flight = call('LLEN', L) + call('ZCARD', Y) + (v[7] or 0), s.pos - s.done + s.out
local head = call('LINDEX', L, 0) or (v[7] and call('LINDEX', F, 0)) or nil
if head and string.byte(head) == 255 then head = string.sub(head, 2, 14) end  -- as its first message begins
if flight > 0 and deserted(s, now) then waiting, flight = waiting + flight, 0 end
local place, unsafe = s.hid, call('ZRANGEBYSCORE', W, '(' .. text(s.safe), '+inf', 'LIMIT', 0, 1)[1]
if unsafe then
  place = math.min(s.hid, chunk_base(unsafe))
elseif s.out == 0 then
  local again, first = call('ZRANGE', Y, 0, 0)[1], head and entry_id(head)
  if again and not (first and string.byte(again) == 9 and unpack_bytes('>I7', again, 2) > first) then
    first = unpack_bytes('>I7', again, 2)
  end
  place = math.max(s.hid, first and first - 1 or s.id)
end
local reply = {text(waiting), v[1] or '', v[2] or '', text(flight), call('HLEN', C), text(s.id),
  v[3] or '', v[4] or text(REPLAY_MS), v[5] or text(REPLAY_MESSAGES), v[6] or '0', text(s.epoch), here, text(place)}
local out = call('HMGET', Q, 'redelivered', 'dropped', 'expired')
local oldest = 0
for _, e in ipairs({head or '', string.sub(call('ZRANGE', Y, 0, 0)[1] or '', 2)}) do
  if e ~= '' then
    local created = unpack_bytes('>I6', e, 8)
    if oldest == 0 or created < oldest then oldest = created end
  end
end
for _, number in ipairs({text(call('ZCARD', KEYS[12])), text(call('ZCARD', KEYS[13])), text(oldest), out[1] or '0',
  out[2] or '0', out[3] or '0', text(now), call('HGETALL', Q)}) do
  reply[#reply + 1] = number
end
local newest, found, at = math.min(tonumber(ARGV[2]), MAX_MESSAGES), 0, -1
local function tell(id) reply[#reply + 1], found = text(id), found + 1 end
while v[7] and found < newest do
  local element = call('LINDEX', F, at)
  if not element then break end
  local first, n = span(element)
  for id = first + n - 1, math.max(first, first + n - newest + found), -1 do tell(id) end
  at = at - 1
end
if found < newest then
  local entries = call('LRANGE', L, found - newest, -1)
  if #entries + found == 0 then
    for _, m in ipairs(call('ZRANGE', Y, -newest, -1)) do entries[#entries + 1] = string.sub(m, 2) end
  end
  for i = #entries, 1, -1 do tell(entry_id(entries[i])) end
end
return reply
