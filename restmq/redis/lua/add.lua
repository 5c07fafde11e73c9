#!lua
-- Purpose: put a turn's messages into a queue: to the consumers if they are up to date, else the list.
-- Atomic: ids, order and whether a message waits or is out are decided together.
-- KEYS: the seven of common.lua
-- ARGV: 2 the highest id this daemon ever saw here, 3 "" or n x I6 ttl ms (0: for ever), 4.. payloads (1..1000)
-- Returns: id of the first; the others follow without a hole.
local now, floor, ttls = clock(), tonumber(ARGV[2]), ARGV[3]
local s = load_state()
local n = #ARGV - 3
if s.known == false then
  s.id, s.epoch, s.started = 0, s.epoch > 0 and s.epoch or now, true
end
if s.id < floor then  -- the store lost time: ids must rise all the same
  s.id, s.epoch = floor + 1000000, math.max(now, s.epoch + 1)
end
local first = s.id + 1
local entries = {}
for i = 1, n do
  local ttl = ttls == '' and 0 or unpack_bytes('>I6', ttls, 6 * i - 5)
  entries[i] = pack(HEAD, s.id + i, now, ttl > 0 and now + ttl or 0) .. ARGV[3 + i]
end
s.id = s.id + n
local pushed, refused = 0, {}
if s.started and s.live > now and call('LLEN', L) == 0 then
  pushed, refused = push(s, entries)
end
if pushed < n then append(entries, pushed + 1) end
put_back(refused)
if s.known == false then call('HSET', Q, 'st', 1) end
save_state(s)
return text(first)
