#!lua flags=allow-oom
-- Purpose: what consumers say of dealt messages that wait for it: done, not done, or more time.
-- Atomic: of each message one acknowledgement counts, wherever it came from; one that went back
--         to the queue before is stale.
-- KEYS: those of common.lua, and that of an idempotency key as in settle.lua
-- ARGV: 2 "ack", "nack" or "extend", 3 delay ms (-1: backoff) or lease ms, 4 reason, 5 chance in [0, 1), 6.. epoch, position of the
--       chunk, id of each (1..1000), last, if there is a key: its fingerprint
-- Returns: {ms until the first is due again (0: none), 1 if something is in the outbox, 1 or 0 (stale) for each; 2 to 4 as in settle.lua}
-- The daemon that has a message in hand hears of it on its channel: 'A', I7 epoch, (I7 pos, I7 id)...
-- Leases are its timers: more time is 'E', I7 epoch, I7 lease ms, (I7 pos, I7 id)... and where it hears nothing, stale.
-- jobs.lua stands here
check_types()
local kept = KEYS[16] and call('GET', KEYS[16])
if kept then
  local answer, same = {'0', 0}, string.sub(kept, 1, 16) == ARGV[#ARGV]
  for i = 1, (#ARGV - 6) / 3 do answer[2 + i] = same and 2 + tonumber(string.sub(kept, 16 + i, 16 + i)) or 4 end
  return answer
end
local s, wanted, order = load_state(), {}, {}
for i = 6, #ARGV - 2, 3 do
  local pos, id = ARGV[i + 1], tonumber(ARGV[i + 2])
  if ARGV[i] == text(s.epoch) then
    if not wanted[pos] then
      wanted[pos], order[#order + 1] = {}, pos
    end
    wanted[pos][id] = true
  end
end
local found, marks, owners, back, extends = {}, {}, {}, {}, ARGV[2] == 'extend'
for _, pos in ipairs(order) do
  local chunk = call('ZRANGEBYSCORE', R, pos, pos)[1]
  if chunk then
    local owner, ids = string.sub(chunk, 34, 45), wanted[pos]
    local left = {}
    if extends then
      for _, e in ipairs((split(chunk))) do
        if ids[entry_id(e)] then left[#left + 1] = e end
      end
    else
      left = take_out(s, chunk, function(id) return ids[id] end)
    end
    for _, e in ipairs(left) do
      local id = entry_id(e)
      found[pos .. ':' .. text(id)] = owner
      if not marks[owner] then
        marks[owner], owners[#owners + 1] = {extends and 'E' or 'A', pack('>I7', s.epoch)}, owner
        if extends then table.insert(marks[owner], pack('>I7', tonumber(ARGV[3]))) end
      end
      table.insert(marks[owner], pack('>I7I7', tonumber(pos), id))
      if ARGV[2] == 'nack' then
        local attempts, priority, headers, failure, payload = parts(e)
        e = with_parts(e, attempts + 1, priority, headers, failure, payload)
        local delay = tonumber(ARGV[3])
        back[#back + 1] = {e, delay >= 0 and delay or nil, ARGV[4]}
      end
    end
  end
end
local now = clock()
local due = now
if #back > 0 then due = come_back(retry_rules(s.mode, tonumber(ARGV[5])), now, back, REJECTED) or now end
save_state(s)
local deaf = {}
for _, owner in ipairs(owners) do
  deaf[owner] = call('PUBLISH', Q .. ':to:' .. owner, table.concat(marks[owner])) == 0 and extends
end
if #back > 0 then
  drain(s, now)
  save_state(s)
end
if #back > 0 or (#owners > 0 and call('HEXISTS', Q, 'max_flight') == 1) then wake(now) end
local reply = {text(math.max(0, due - now)), call('EXISTS', K)}
for i = 6, #ARGV - 2, 3 do
  local name = ARGV[i + 1] .. ':' .. ARGV[i + 2]
  reply[#reply + 1] = (ARGV[i] == text(s.epoch) and found[name] and not deaf[found[name]]) and 1 or 0
  found[name] = nil
end
local lives = call('HGET', Q, 'dedup_ms') or '86400000'
if KEYS[16] and #owners > 0 and lives ~= '0' then
  call('SET', KEYS[16], ARGV[#ARGV] .. table.concat(reply, '', 3), 'PX', lives)
end
return reply
