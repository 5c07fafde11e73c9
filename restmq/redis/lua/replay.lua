#!lua flags=no-writes
-- Purpose: what was broadcast above an id, for a client that comes back.
-- Atomic: a snapshot; what is pushed later is above the highest id it tells.
-- KEYS: those of common.lua
-- ARGV: 2 id, 3 epoch it belongs to (another, or an id that was never given: begin at the oldest that is kept)
-- Returns: {epoch, highest id pushed, base of the oldest chunk that is kept (none: the highest id), solid,
--          last id, chunks...}: those with ids above, at most 1,000 messages or 1 MiB; call again from the last one.
-- What no kernel has yet is kept longer than the history: it is read from the window.
local now = clock()
local s = load_state()
local ms = tonumber(call('HGET', Q, 'replay') or REPLAY_MS)
local after = tonumber(ARGV[2])
if ARGV[3] ~= text(s.epoch) or after > s.id then after = 0 end
local reply = {text(s.epoch), text(s.hid), text(s.hid), text(s.solid), text(s.id)}
local count, size, found = 0, 0, false

-- True when the page is full. (A chunk with nothing in order is for nobody who comes back.)
local function give(chunk)
  local base, last = chunk_base(chunk), last_id(chunk)
  if last <= base then return false end
  if not found then found, reply[3] = true, text(base) end
  if last > after then
    reply[#reply + 1] = chunk
    count, size = count + unpack_bytes('>I4', chunk, 30), size + #chunk
  end
  return count >= MAX_MESSAGES or size >= MAX_BYTES
end

local function is_kept(element)
  return unpack_bytes('>I6', element) + ms > now
end

-- The first element of the history that still counts, from 0, and where it begins.
local first, begins = 0, nil
repeat
  local kept = call('LRANGE', H, first, first + STEP - 1)
  for _, element in ipairs(kept) do
    if is_kept(element) then
      begins = select(2, unpack_bytes(CHUNK, element, 8))
      break
    end
    first = first + 1
  end
until begins or #kept == 0

local from = text(s.safe)
while true do
  local chunk = call('ZRANGEBYSCORE', W, '(' .. from, text(begins or s.pos), 'LIMIT', 0, 1)[1]
  if not chunk then break end
  if give(chunk) then return reply end
  from = text(select(3, unpack_bytes(CHUNK, chunk, 2)))
end
while begins do
  local kept = call('LRANGE', H, first, first + STEP - 1)
  if #kept == 0 then break end
  for _, element in ipairs(kept) do
    if give(string.sub(element, 7)) then return reply end
  end
  first = first + #kept
end
return reply
