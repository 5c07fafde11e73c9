#!lua flags=allow-oom
-- Purpose: what time brings: leases that ended and delayed messages that are due are ready again.
-- Atomic: each moves once, whoever calls; one whose attempts are used up becomes a dead letter.
-- KEYS: those of common.lua
-- ARGV: none more
-- Returns: {now ms, when to call again, ms ("0": never), 1 if something is in the outbox}; at most 1,000
--          messages or 1 MiB a call, then "when" is now.
-- jobs.lua stands here
check_types()
local now = clock()
local s = load_state()
local size, back, ready, more = 0, {}, {}, false
local function due_of(key, each)
  if size >= MAX_BYTES then
    more = true
    return
  end
  local ids = call('ZRANGEBYSCORE', key, '-inf', text(now), 'LIMIT', 0, MAX_MESSAGES / 2)
  if #ids == 0 then return end
  local gone = {}
  for i, record in ipairs(call('HMGET', J, unpack(ids))) do
    if size >= MAX_BYTES then break end
    gone[i], size = ids[i], size + #(record or '')
    if record then each(string.sub(record, 15)) end
  end
  call('ZREM', key, unpack(gone))
  call('HDEL', J, unpack(gone))
  more = more or #gone == MAX_MESSAGES / 2 or #gone < #ids
end
due_of(X, function(e) back[#back + 1] = {e, 0, ''} end)
-- Of those that end together the store gives ids in the order of their text: 10 before 9.
table.sort(back, function(a, b) return entry_id(a[1]) < entry_id(b[1]) end)
due_of(D, function(e)
  if is_gone(e, now) then call('HINCRBY', Q, 'expired', 1) else ready[#ready + 1] = e end
end)
put_back(ready)
if #back > 0 then come_back(retry_rules(s.mode, 0), now, back, DEAD) end
drain(s, now)
save_state(s)
if #ready + #back > 0 then wake(now) end
return {text(now), more and text(now) or next_due(), call('EXISTS', K)}
