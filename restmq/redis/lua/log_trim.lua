#!lua flags=allow-oom
-- Purpose: drop events whose time is over or that are too many, and old idempotency keys, and give their
--          memory back.
-- Atomic: entries and index go together, and readers learn up to where a topic is trimmed.
-- KEYS: those of log_common.lua
-- ARGV: 2 limits
-- Returns: 1 if there may be more to drop, else 0.
local now, limits, more = clock(), ARGV[2], 0
if #limits ~= 18 * CLASSES then return redis.error_reply('ERR log_trim.lua wants limits') end
check_types()
forget_keys(now)
for class = 0, CLASSES - 1 do
  if trim(class, now, limits, 1000) > 0 then more = 1 end
end
return more
