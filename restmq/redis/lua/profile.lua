#!lua
-- Purpose: write or delete a profile of settings.
-- Atomic: whoever reads a version reads the profiles that belong to it.
-- KEYS: 1 the hash of the profiles
-- ARGV: 1 name, 2 "" (delete it) or its JSON, 3 how many there may be
-- Returns: {version, 1 if it was there}; version "0": there are too many. All daemons hear it on the channel of the hash's name.
local P = KEYS[1]
local was = redis.call('HEXISTS', P, ARGV[1])
if ARGV[2] == '' and was == 0 then return {redis.call('HGET', P, ':version') or '0', 0} end
if ARGV[2] ~= '' and was == 0 then
  local count = redis.call('HLEN', P)
  for _, field in ipairs({':version', ':applied', ':progress'}) do count = count - redis.call('HEXISTS', P, field) end
  if count >= tonumber(ARGV[3]) then return {'0', 0} end
end
-- A version is a time, so that it rises even when the hash was lost.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local version = math.max(tonumber(redis.call('HGET', P, ':version') or 0) + 1, now)
if ARGV[2] == '' then redis.call('HDEL', P, ARGV[1]) else redis.call('HSET', P, ARGV[1], ARGV[2]) end
redis.call('HSET', P, ':version', string.format('%.0f', version))
redis.call('PUBLISH', P, string.format('%.0f', version))
return {string.format('%.0f', version), was}
