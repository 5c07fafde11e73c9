#!lua flags=allow-oom
-- Purpose: pause a schedule, let it go on, or remove it.
-- Atomic: no run is claimed afterwards; one that was claimed before may still arrive.
-- KEYS: the five of schedule_common.lua
-- ARGV: 2 name, 3 "pause", "resume" or "remove"
-- Returns: 1, or 0 if there is no such schedule
check_types()
local name, what, now = ARGV[2], ARGV[3], clock()
local state = load_state(name)
if not state then return 0 end
if what == 'remove' then
  for _, key in ipairs({DEFINITIONS, STATES, MESSAGES, OUTBOX}) do call('HDEL', key, name) end
  next_version(now)
  return 1
end
local paused = what == 'pause' and '1' or '0'
if state[PAUSED] ~= paused then
  state[PAUSED] = paused
  -- What would have run meanwhile does not; a clock that was ahead is forgotten, too.
  if paused == '0' then state[AFTER] = text(math.floor(now / 1000)) end
  state[SINCE] = next_version(now)
  save_state(name, state)
end
return 1
