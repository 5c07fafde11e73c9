#!lua flags=allow-oom
-- Purpose: change what a queue does (restmq/rules/queue_settings.py has the table).
-- Atomic: the values, which of them are the queue's own, and the release of what a start lets go are one step.
-- KEYS: those of common.lua
-- ARGV: 2 "" or the token that the change was worked out from, 3 version of the profiles it was worked out from,
--       4 "own": the fields named are the queue's own from now on, 5.. field, value ("": take it away)
-- Returns: 1; or, and nothing was changed, 0: the token is not that of now, 2: newer profiles were here before
local v = redis.call('HMGET', KEYS[1], 'rev', 'id', 'own', 'pv')
if ARGV[2] ~= '' then
  if ARGV[2] ~= (v[1] or '') .. (v[2] and '+' or '-') then return 0 end
  if tonumber(v[4] or 0) > tonumber(ARGV[3]) then return 2 end
end
local own, pushes = v[3] or '', false
for i = 5, #ARGV, 2 do
  local field = ARGV[i]
  pushes = pushes or field == 'st' or field == 'pol' or field == 'mode'
  if ARGV[4] == 'own' and not string.find(',' .. own .. ',', ',' .. field .. ',', 1, true) then
    own = own == '' and field or own .. ',' .. field
  end
end
local function write()
  for i = 5, #ARGV, 2 do
    local field, value = ARGV[i], ARGV[i + 1]
    if value == '' then
      redis.call('HDEL', KEYS[1], field)
    else
      redis.call('HSET', KEYS[1], field, value)
    end
  end
  if ARGV[4] == 'own' then redis.call('HSET', KEYS[1], 'own', own) end
  redis.call('HINCRBY', KEYS[1], 'rev', 1)
end
if not pushes then  -- nothing is let go
  write()
  return 1
end

-- common.lua stands here
check_types()
write()
local now, s = clock(), load_state()
if s.epoch == 0 then s.epoch = now end
drain(s, now)
save_state(s)
-- Who waits in a long poll may have more now.
if tonumber(call('HGET', Q, 'wait') or 0) > now then call('PUBLISH', Q .. ':wake', '1') end
return 1
