#!lua
-- Purpose: make a schedule, or replace it as a whole.
-- Atomic: definition, message and state change together.
-- KEYS: the five of schedule_common.lua
-- ARGV: 2 name, 3 definition, 4 message, 5 "1" paused or "0", 6 how many schedules there may be
-- Returns: 1 made, 0 replaced, -1 there are too many
check_types()
local name, definition = ARGV[2], ARGV[3]
local now, old = clock(), call('HGET', DEFINITIONS, name)
if not old and call('HLEN', DEFINITIONS) >= tonumber(ARGV[6]) then return -1 end
local state = load_state(name) or {'0', '0', '1', '0', '0', '0', '0', '0'}
local function times(of) return string.match(of, '^%Z*%z%Z*') end
-- Runs are due from now on, unless it ran at the same times before: then none is left out.
if not old or state[PAUSED] == '1' or times(old) ~= times(definition) then
  state[AFTER] = text(math.floor(now / 1000))
end
state[PAUSED] = ARGV[5]
state[SINCE] = next_version(now)
call('HSET', DEFINITIONS, name, definition)
call('HSET', MESSAGES, name, ARGV[4])
save_state(name, state)
return old and 0 or 1
