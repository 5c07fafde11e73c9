#!lua flags=no-writes
-- Purpose: read again what was pushed after a position, for a daemon that missed it on the channel.
-- Atomic: a snapshot; what comes later comes on the channel.
-- KEYS: those of common.lua
-- ARGV: 2 daemon, 3 "b" or "r", 4 position
-- Returns: {epoch, position reached, 1 if there is more, chunks...}; at most 1,000 messages or 1 MiB.
-- Broadcast: what every daemon took and a kernel has is left out, also if it is after the position.
local s = load_state()
local window, from = W, ARGV[4]
if ARGV[3] == 'r' then
  window = R
elseif tonumber(from) < s.done then
  from = text(s.done)
end
local reply, count, size, looked = {text(s.epoch), from, 0}, 0, 0, 0
while count < MAX_MESSAGES and size < MAX_BYTES and looked < MAX_MESSAGES do
  local chunk = call('ZRANGEBYSCORE', window, '(' .. from, '+inf', 'LIMIT', 0, 1)[1]
  if not chunk then return reply end
  local _, _, pos, _, n = unpack_bytes(CHUNK, chunk, 2)
  from = text(pos)
  reply[2] = from
  looked, size = looked + 1, size + #chunk
  if window == W or string.sub(chunk, 34, 45) == ARGV[2] then
    reply[#reply + 1] = chunk
    count = count + n
  end
end
reply[3] = 1
return reply
