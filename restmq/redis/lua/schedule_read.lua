#!lua flags=no-writes
-- Purpose: schedules with all that belongs to them, for people.
-- Atomic: all of one moment.
-- KEYS: the five of schedule_common.lua
-- ARGV: 2 "one", 3 name; or 2 "page", 3 "" or the name behind which it begins, 4 how many at most
-- Returns: {now ms, 1 if there are more behind these, name, definition, state, message, name...}; a
--          page ends before 1 MiB
check_types()
local names, size, reply = {}, 0, {text(clock()), 0}
if ARGV[2] == 'one' then
  names = {ARGV[3]}
else
  for _, name in ipairs(call('HKEYS', DEFINITIONS)) do
    if name > ARGV[3] then names[#names + 1] = name end
  end
  table.sort(names)
end
for i, name in ipairs(names) do
  local definition = call('HGET', DEFINITIONS, name)
  if definition then
    local message = call('HGET', MESSAGES, name) or ''
    size = size + #definition + #message + 300
    if i > 1 and (size > 1048576 or i > tonumber(ARGV[4])) then
      reply[2] = 1
      break
    end
    for _, part in ipairs({name, definition, call('HGET', STATES, name) or '', message}) do
      reply[#reply + 1] = part
    end
  end
end
return reply
