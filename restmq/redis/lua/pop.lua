#!lua flags=allow-oom
-- Purpose: remove the oldest waiting messages.
-- Atomic: a message leaves the list in the same step as it enters the reply.
-- KEYS: those of common.lua
-- ARGV: 2 how many at most
-- Error: LEASEDONLY in mode jobs, and nothing is taken.
-- Returns: {now ms, 1 if there may be more (call again), entries...}; a gone entry comes without its payload.
local now, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- At most 1,000 messages or 1 MiB of them.
local function take()
  local reply, size = {string.format('%.0f', now), 0}, 0
  for _ = 1, math.min(wanted, 1000) do
    local e = redis.call('LPOP', KEYS[2])
    if not e then return reply end
    local expires = struct.unpack('>I6', e, 14)
    if expires > 0 and expires <= now then e = string.sub(e, 1, 19) end
    reply[#reply + 1] = e
    size = size + #e
    if size >= 1048576 then break end
  end
  if #reply - 2 < wanted then reply[2] = 1 end
  return reply
end

-- Nothing is out with a daemon, nothing came back, no packs are needed: the list is all there is.
local v = redis.call('HMGET', KEYS[1], 'pos', 'done', 'out', 'mode', 'fold')
if v[4] == '2' then
  return redis.error_reply('LEASEDONLY ' .. KEYS[1])
end
local listed = redis.call('EXISTS', KEYS[10]) == 0 and (not v[5] or redis.call('LLEN', KEYS[2]) >= wanted)
if listed and v[1] == v[2] and (not v[3] or v[3] == '0') then return take() end

-- common.lua stands here
local s = load_state()
local complete = home(s, now)
save_state(s)
if not complete then return {text(now), 1} end
if call('EXISTS', Y) == 0 then
  unfold(math.min(wanted, MAX_MESSAGES))
  local reply = take()
  if #reply - 2 < wanted and call('EXISTS', F) == 1 then reply[2] = 1 end
  return reply
end
check_types()
local run, place = next_run(math.min(wanted, MAX_MESSAGES))
take_run(place, #run)
local reply = {text(now), #run > 0 and 1 or 0}
for _, e in ipairs(run) do
  reply[#reply + 1] = is_gone(e, now) and string.sub(e, 1, 19) or e
end
return reply
