#!lua
-- Purpose: append a turn's events to a log and publish them to the daemons that read it.
-- Atomic: ids, entries, index, outbox and the chunk on the channel are one step, so an event with a
--         higher id is never to be seen before one with a lower.
-- KEYS: those of log_common.lua
-- ARGV: 2 the highest id, 3 the latest epoch this daemon ever saw here, 4 version of the bindings it
--       knows, 5 rules, 6 a byte for each event: its rule, 7 the server's run id ('': not known), 8 n,
--       9 digest of an idempotency key and fingerprint of the events (16 bytes each; '': none), 10.. n
--       payloads (1..1000), then for each bound event its place (1..) and the queue
-- Returns: epoch and the first id (the others follow without a hole); nothing but the version of the
--          bindings when that is another: nothing is changed then. Under a key that is known the epoch,
--          the first id then given and 1, or 2 if the events were others; nothing is changed either.
--          3 behind the first id: no class was free for the events of a rule.
local FEW = 16  -- so many are published unasked
local now, floor, epoch = clock(), tonumber(ARGV[2]), tonumber(ARGV[3])
local rule_of, n, used = ARGV[6], tonumber(ARGV[8]), nil
local rules, count = read_rules(ARGV[5])
if n < 1 or #rule_of ~= n or rules == nil then
  return redis.error_reply('ERR log_append.lua wants events')
end
if string.find(rule_of, '[^%z\1]') then
  used = {}
  for i = 1, n do
    local rule = byte(rule_of, i)
    if rule >= count then return redis.error_reply('ERR log_append.lua knows no such rule') end
    if rule > 1 then used[rule] = true end
  end
end
check_types(used == nil and rule_of or nil)  -- rules 0 and 1 are the classes
local s = load_log()
local digest, fingerprint = sub(ARGV[9], 1, 16), sub(ARGV[9], 17)
if digest ~= '' then
  forget_keys(now)
  local kept = call('HGET', Q, 'k' .. digest)
  if kept then
    local first = unpack_bytes('>I7', kept, 17)
    return {text(s.epoch), text(first), sub(kept, 1, 16) == fingerprint and '1' or '2'}
  end
end
if s.bindings ~= ARGV[4] then return {s.bindings} end
if s.known == false then  -- what is left of a log without its hash would not let ids begin anew
  for i = 2, #KEYS do  -- but bindings hold on, and what is on its way into queues goes it
    if KEYS[i] ~= BINDINGS and KEYS[i] ~= OUTBOX then call('DEL', KEYS[i]) end
  end
end
mend(s, now, floor, epoch)
if s.epoch == 0 then s.epoch = now end
look_at_run(s, ARGV[7])
local class_of, limits, full = {[0] = 0, 1}, {[0] = rules[0].limits, rules[1].limits}, false
if used then class_of, limits, full = find_classes(rules, count, used) end

local prev, touched, entries, members, times = s.id, {}, {}, {}, {}
for i = 1, n do
  local rule, payload = byte(rule_of, i), ARGV[9 + i]
  local class = class_of[rule]
  if times[rule] == nil then
    local age = unpack_bytes('>I6', rules[rule].limits)
    times[rule] = pack('>I6I6', now, age > 0 and now + age or 0)
  end
  s.id = s.id + 1
  local id = pack('>I7', s.id)
  local e = id .. times[rule] .. payload
  call('XADD', KEYS[ENTRIES + class], text(s.id), 'e', e)
  members[2 * i - 1] = '0'
  members[2 * i] = sub(payload, 2, 1 + byte(payload)) .. '\0' .. id .. char(class)
  entries[i] = e
  touched[class] = (touched[class] or 0) + #e
end
call('ZADD', INDEX, unpack(members))  -- at most 2,000
for i = 10 + n, #ARGV, 2 do
  call('XADD', OUTBOX, '*', 'q', ARGV[i + 1], 'e', entries[tonumber(ARGV[i])])
end
call('HSET', Q, 'id', text(s.id), 'epoch', text(s.epoch))
if digest ~= '' then
  call('ZADD', ONCE, text(now + ONCE_MS), digest)
  call('HSET', Q, 'k' .. digest, fingerprint .. pack('>I7', prev + 1))
end
for class, size in pairs(touched) do
  call('HINCRBY', Q, 'b' .. class, size)
  trim(class, now, limits[class], 2 * n + STEP)
end
-- A chunk of a thousand costs as much as a fifth of the rest: not where nobody listens.
if n < FEW or call('PUBSUB', 'NUMSUB', Q .. ':out')[2] > 0 then
  local sizes = {}
  for i, e in ipairs(entries) do sizes[i] = pack('>I4', #e) end
  call('PUBLISH', Q .. ':out', 'e' .. pack('>I7I7I7I4', s.epoch, prev, s.id, n)
    .. table.concat(sizes) .. table.concat(entries))
end
if full then return {text(s.epoch), text(prev + 1), '3'} end
return {text(s.epoch), text(prev + 1)}
