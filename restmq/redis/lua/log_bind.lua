#!lua
-- Purpose: set or take away a binding of a log, or only list them all.
-- Atomic: the version rises with the change, so no append can miss a binding that was answered for.
-- KEYS: those of log_common.lua
-- ARGV: 2 name ('': only list), 3 the binding ('': take it away)
-- Returns: 1 if it was there before, version, name, binding ...
local name, value, there = ARGV[2], ARGV[3], 0
check_types()
if name ~= '' then
  there = call('HEXISTS', BINDINGS, name)
  if value ~= '' then
    call('HSET', BINDINGS, name, value)
  else
    call('HDEL', BINDINGS, name)
  end
  local version = tonumber(call('HGET', Q, 'bv') or 0) + 1
  -- A log that is new has no id yet: `id` stays missing, so that the first append begins it.
  call('HSET', Q, 'bv', text(version))
end
local all = call('HGETALL', BINDINGS)
table.insert(all, 1, call('HGET', Q, 'bv') or '0')
table.insert(all, 1, there)
return all
