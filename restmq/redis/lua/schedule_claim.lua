#!lua
-- Purpose: take a run in hand: one that is due, or one that a daemon took and did not put.
-- Atomic: of all daemons one has it; a later run never comes before an earlier one, nor a run twice.
-- KEYS: the five of schedule_common.lua
-- ARGV: 2 name, 3 how long (ms) a run stays in one hand, 4 the run's second, or "0": only what is in the
--       outbox; 5 SINCE and 6 AFTER of the state from which the run was found, 7 runs left out before it
-- Returns: {"taken", now ms, state, outbox entry}, or {"early" or "not", now ms, state or ""}
check_types()
local name, hold, run, now = ARGV[2], tonumber(ARGV[3]), ARGV[4], clock()
local state = load_state(name)
if not state then return {'not', text(now), ''} end
local entry = call('HGET', OUTBOX, name)
if entry then
  if tonumber(state[CLAIMED]) + hold > now then return {'not', text(now), table.concat(state, ' ')} end
else
  if run == '0' or state[PAUSED] == '1' or state[SINCE] ~= ARGV[5] or state[AFTER] ~= ARGV[6] then
    return {'not', text(now), table.concat(state, ' ')}
  end
  if tonumber(run) * 1000 > now then return {'early', text(now), table.concat(state, ' ')} end
  local queue = string.match(call('HGET', DEFINITIONS, name), '%Z*$')
  entry = run .. '\0' .. queue .. '\0' .. call('HGET', MESSAGES, name)
  call('HSET', OUTBOX, name, entry)
  state[AFTER], state[PENDING] = run, run
  state[MISSED] = text(tonumber(state[MISSED]) + tonumber(ARGV[7]))
end
state[CLAIMED] = text(now)
save_state(name, state)
return {'taken', text(now), table.concat(state, ' '), entry}
