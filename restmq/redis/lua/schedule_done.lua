#!lua flags=allow-oom
-- Purpose: a run is in its queue.
-- Atomic: it leaves the outbox when it is noted as the last one.
-- KEYS: the five of schedule_common.lua
-- ARGV: 2 name, 3 the run's second, 4 id of the message (0: not known)
-- Returns: 1, or 0 if it was noted before
check_types()
local name, run = ARGV[2], ARGV[3]
local state = load_state(name)
if not state or state[PENDING] ~= run then return 0 end
call('HDEL', OUTBOX, name)
state[LAST], state[LAST_ID], state[PENDING], state[CLAIMED] = run, ARGV[4], '0', '0'
save_state(name, state)
return 1
