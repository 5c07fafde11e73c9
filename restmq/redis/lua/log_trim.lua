#!lua flags=allow-oom
-- Purpose: drop events whose time is over or that are too many, and old idempotency keys, and give their
--          memory back.
-- Atomic: entries and index go together, and readers learn up to where a topic is trimmed.
-- KEYS: those of log_common.lua
-- ARGV: 2 rules
-- Returns: 1 if there may be more to drop, else 0; of a log that holds nothing to drop or to move, ever,
--          its last id as a string.
local now, more = clock(), 0
local rules, count = read_rules(ARGV[2])
if rules == nil then return redis.error_reply('ERR log_trim.lua wants rules') end
check_types()
local _, limits = find_classes(rules, count, {})
forget_keys(now)
for class = 0, CLASSES - 1 do
  if trim(class, now, limits[class] or limits[0], 1000) > 0 then more = 1 end
end
if more == 1 or call('EXISTS', OUTBOX, ONCE) > 0 then return more end
for class = 0, CLASSES - 1 do
  if call('EXISTS', KEYS[ENTRIES + class]) == 1 then return 0 end
end
return call('HGET', Q, 'id') or '0'
