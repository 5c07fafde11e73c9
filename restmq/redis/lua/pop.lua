#!lua flags=allow-oom
-- Purpose: remove the oldest waiting messages.
-- Atomic: a message leaves the list in the same step as it enters the reply.
-- KEYS: the seven of common.lua
-- ARGV: 2 how many at most
-- Returns: {now ms, 1 if there may be more (call again), entries...}; a gone entry comes without its payload.
local now = clock()
local s = load_state()
if not home(s, now) then
  save_state(s)
  return {text(now), 1}
end
save_state(s)
local reply, size = {text(now), 0}, 0
local wanted = math.min(tonumber(ARGV[2]), MAX_MESSAGES)
for i = 1, wanted do
  local e = call('LPOP', L)
  if not e then return reply end
  if is_gone(e, now) then e = string.sub(e, 1, 19) end
  reply[#reply + 1] = e
  size = size + #e
  if size >= MAX_BYTES then break end
end
if #reply - 2 < tonumber(ARGV[2]) then reply[2] = 1 end
return reply
