#!lua
-- Purpose: set or take away a binding of a log, or only list them all.
-- Atomic: the version rises with the change, so no append can miss a binding that was answered for.
-- KEYS: those of log_common.lua
-- ARGV: 2 name ('': only list), 3 the binding ('': take it away), 4 how many there may be
-- Returns: 1 if it was there before, -1 if there are too many: nothing is changed then; version, name,
--          binding, how many events for its queue were dropped ...
local name, value, there = ARGV[2], ARGV[3], 0
check_types()
local version = call('HGET', Q, 'bv')
-- Without a version there were none yet, or the hash is lost; then they hold again from here on.
local changed = version == false and call('EXISTS', BINDINGS) == 1
if name ~= '' then
  there = call('HEXISTS', BINDINGS, name)
  if value == '' then
    call('HDEL', BINDINGS, name)
    changed = true
  elseif there == 0 and call('HLEN', BINDINGS) >= tonumber(ARGV[4]) then
    there = -1
  else
    call('HSET', BINDINGS, name, value)
    changed = true
  end
end
if changed then
  version = text(math.max(clock(), tonumber(version or 0) + 1))
  -- A log that is new has no id yet: `id` stays missing, so that the first append begins it.
  call('HSET', Q, 'bv', version)
end
local all, kept = {there, version or '0'}, call('HGETALL', BINDINGS)
for i = 1, #kept, 2 do
  local dropped = call('HGET', Q, 'd' .. cjson.decode(kept[i + 1]).queue)
  all[#all + 1], all[#all + 2], all[#all + 3] = kept[i], kept[i + 1], dropped or '0'
end
return all
