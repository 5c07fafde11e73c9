#!lua flags=allow-oom
-- Purpose: when a queue is to be looked at, said at the memory limit: what is leased there must come back.
-- Atomic: an earlier time stays.
-- KEYS: 1 due: queues by when to look, ms
-- ARGV: 1 when, ms, 2 the queue
-- Returns: 1 if the queue was not there before, else 0
return redis.call('ZADD', KEYS[1], 'LT', ARGV[1], ARGV[2])
