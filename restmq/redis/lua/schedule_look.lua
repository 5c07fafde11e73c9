#!lua flags=no-writes
-- Purpose: what a daemon must know twice a second: the time, what changed, and which runs are being put.
-- Atomic: all of one moment.
-- KEYS: the five of schedule_common.lua
-- ARGV: 2 the version it knows
-- Returns: {now ms, version, {name, state for each run in the outbox}} and, if the version is
--          another one, {name, definition, state for each schedule} (at most 1,000 of them, under 1 MiB)
check_types()
local version, pending = call('GET', VERSION) or '0', {}
for _, name in ipairs(call('HKEYS', OUTBOX)) do
  pending[#pending + 1] = name
  pending[#pending + 1] = call('HGET', STATES, name) or ''
end
local reply = {text(clock()), version, pending}
if version ~= ARGV[2] then
  local all, definitions = {}, call('HGETALL', DEFINITIONS)
  for i = 1, #definitions, 2 do
    all[#all + 1] = definitions[i]
    all[#all + 1] = definitions[i + 1]
    all[#all + 1] = call('HGET', STATES, definitions[i]) or ''
  end
  reply[4] = all
end
return reply
