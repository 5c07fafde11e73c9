#!lua flags=allow-oom
-- Purpose: change what a queue does (restmq/rules/queue_settings.py has the table).
-- Atomic: the values, which of them are the queue's own, and the release of what a start lets go are one step.
-- KEYS: those of common.lua
-- ARGV: 2 "" or the token that the change was worked out from, 3 version of the profiles it was worked out from,
--       4 "own": the fields named are the queue's own from now on, 5.. field, value ("": take it away)
-- Returns: 1; or, and nothing was changed, 0: the token is not that of now, 2: newer profiles were here before
check_types()
local v = call('HMGET', Q, 'rev', 'id', 'own', 'pv')
if ARGV[2] ~= '' then
  if ARGV[2] ~= (v[1] or '') .. (v[2] and '+' or '-') then return 0 end
  if tonumber(v[4] or 0) > tonumber(ARGV[3]) then return 2 end
end
local now, own = clock(), v[3] or ''
for i = 5, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if value == '' then call('HDEL', Q, field) else call('HSET', Q, field, value) end
  if ARGV[4] == 'own' and not string.find(',' .. own .. ',', ',' .. field .. ',', 1, true) then
    own = own == '' and field or own .. ',' .. field
  end
end
if ARGV[4] == 'own' then call('HSET', Q, 'own', own) end
call('HINCRBY', Q, 'rev', 1)
local s = load_state()
if s.epoch == 0 then s.epoch = now end
drain(s, now)
save_state(s)
-- Who waits in a long poll may have more now.
if tonumber(call('HGET', Q, 'wait') or 0) > now then call('PUBLISH', Q .. ':wake', '1') end
return 1
