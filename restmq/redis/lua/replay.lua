#!lua flags=no-writes
-- Purpose: what was broadcast after a position, for a client that comes back.
-- Atomic: a snapshot; what is pushed later is behind the position it tells.
-- KEYS: those of common.lua
-- ARGV: 2 position, 3 epoch it belongs to ("0": begin at the oldest that is kept)
-- Returns: {epoch, position of the last push, position before the oldest that is kept, last id, chunks...}:
--          those that end behind the position, at most 1,000 messages or 1 MiB; call again from the last one.
--          Before them the chunk that ends at the position, if it is kept: it tells the id that is there.
local now = clock()
local s = load_state()
local ms = tonumber(call('HGET', Q, 'replay') or REPLAY_MS)
local after = ARGV[3] == text(s.epoch) and tonumber(ARGV[2]) or -1
local reply, count, size, at = {text(s.epoch), text(s.pos), text(s.pos), text(s.id)}, 0, 0, 0
local found = false
while count < MAX_MESSAGES and size < MAX_BYTES do
  local kept = call('LRANGE', H, at, at + STEP - 1)
  if #kept == 0 then return reply end
  for _, element in ipairs(kept) do
    local pushed, prev = unpack_bytes('>I6I7', element)
    local _, _, pos, _, n = unpack_bytes(CHUNK, element, 22)
    if pushed + ms > now and pos <= s.pos then
      if not found then found, reply[3] = true, text(prev) end
      if pos >= after then reply[#reply + 1] = string.sub(element, 21) end
      if pos > after then
        count, size = count + n, size + #element
        if count >= MAX_MESSAGES or size >= MAX_BYTES then break end
      end
    end
  end
  at = at + #kept
end
return reply
