-- Purpose: what the scripts of schedules share; scripts.py puts it in front of each of them.
-- Atomic: it is part of the script that uses it, never run alone.
-- KEYS: 1 definitions, 2 states, 3 messages, 4 outbox, all hashes by name; 5 the version (see keys.py)
-- ARGV: 1 now in ms ("0": the server's clock); the rest belongs to the script.
-- Returns: nothing.
--
-- Definition  cron, NUL, time zone, NUL, queue.
-- Message     opaque here: the template of what is put.
-- State       eight numbers, a space between: see the names below. They stay texts: none is calculated with but missed.
-- Outbox      a run that is being put: its second, NUL, queue, NUL, message, all as they were when it was claimed.
-- Version     rises with every change of a definition, also when the store lost its past.

local DEFINITIONS, STATES, MESSAGES, OUTBOX, VERSION = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SINCE, AFTER, PAUSED, LAST, LAST_ID, MISSED, PENDING, CLAIMED = 1, 2, 3, 4, 5, 6, 7, 8
-- SINCE the version of the last change; AFTER the second behind which runs are due; LAST the run that
-- was put last, as message LAST_ID; PENDING the run in the outbox (0: none), in hand since CLAIMED (ms).
local call = redis.call

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Numbers above 2^31 must not reach Redis in the form 1.7e+12.
local function text(n) return string.format('%.0f', n) end

-- A script that writes in several places looks at the types of all first: nothing is rolled back.
local function check_types()
  for i, key in ipairs(KEYS) do
    local kind, wanted = call('TYPE', key).ok, i == 5 and 'string' or 'hash'
    if kind ~= 'none' and kind ~= wanted then
      error({err = 'WRONGTYPE ' .. key .. ' is a ' .. kind .. ', not a ' .. wanted})
    end
  end
end

local function load_state(name)
  local packed = call('HGET', STATES, name)
  if not packed then return nil end
  local state = {}
  for number in string.gmatch(packed, '%d+') do state[#state + 1] = number end
  return state
end

local function save_state(name, state)
  call('HSET', STATES, name, table.concat(state, ' '))
end

local function next_version(now)
  local version = text(math.max(now, tonumber(call('GET', VERSION) or '0') + 1))
  call('SET', VERSION, version)
  return version
end
