#!lua flags=allow-oom
-- Purpose: a daemon has nobody any more who waits for messages of the queue.
-- Atomic: a queue that is nothing but a word for who waits goes at once.
-- KEYS: those of common.lua
-- ARGV: none more
-- Returns: 1. Other daemons that have somebody are told: they ask, and so give their word again.
if redis.call('HEXISTS', KEYS[1], 'wait') == 1 and redis.call('HLEN', KEYS[1]) == 1 then
  redis.call('HDEL', KEYS[1], 'wait')
  redis.call('PUBLISH', KEYS[1] .. ':wake', '1')
end
return 1
