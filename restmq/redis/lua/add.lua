#!lua
-- Purpose: put a turn's messages into a queue: to the consumers if they are up to date, else to what waits.
-- Atomic: ids, order and whether a message waits or is out are decided together.
-- KEYS: those of common.lua
-- ARGV: 2 the highest id this daemon ever saw here, 3 "" or n x I6 ttl ms (0: for ever) or "packs",
--       4 fields a new queue gets ("name value name value"), 5.. payloads (1..1000); or packs from their I4 n on,
--       with 1,000 messages together at most
-- Returns: id of the first; the others follow without a hole.
-- Error: LIMITED, and nothing is put in: the queue has bounds or a time to live of its own (field lim), see put.lua.
-- Observers get a copy on the channel :see: 'o', I4 n, n x I4 lengths, entries.
local now, floor, ttls, n = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], #ARGV - 4
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

if n < 1 then return redis.error_reply('ERR add.lua wants a message') end

local function make_entries(id)
  local entries = {}
  if ttls == '' then  -- half the time of the other way, for the many messages of one call
    local pack, rest = struct.pack, struct.pack('>I6I6', now, 0)
    for i = 1, n do
      entries[i] = pack('>I7', id + i) .. rest .. ARGV[4 + i]
    end
    return entries
  end
  for i = 1, n do
    local ttl = struct.unpack('>I6', ttls, 6 * i - 5)
    entries[i] = struct.pack('>I7I6I6', id + i, now, ttl > 0 and now + ttl or 0) .. ARGV[4 + i]
  end
  return entries
end

-- The packs as they lie in :f, the first message with the id behind this one; and how many messages that are.
local function make_packs(id)
  local packs, count = {}, 0
  for i = 1, #ARGV - 4 do
    packs[i] = '\255' .. struct.pack('>I7I6I6', id + count + 1, now, 0) .. ARGV[4 + i]
    count = count + struct.unpack('>I4', ARGV[4 + i])
  end
  return packs, count
end

local v = redis.call('HMGET', KEYS[1], 'id', 'live', 'obs', 'wait', 'lim', 'fold')
if v[5] then return redis.error_reply('LIMITED ' .. KEYS[1]) end
local observed = tonumber(v[3] or 0) > now
local function show(entries)
  if not observed then return end
  local sizes = {}
  for i, e in ipairs(entries) do sizes[i] = struct.pack('>I4', #e) end
  redis.call('PUBLISH', KEYS[1] .. ':see',
    'o' .. struct.pack('>I4', #entries) .. table.concat(sizes) .. table.concat(entries))
end

-- Nobody listens and the store lost no time: straight into the list, or behind the packs that wait.
local last = tonumber(v[1] or -1)
if last >= floor and tonumber(v[2] or 0) <= now and not (observed and ttls == 'packs') then
  local fold, waits = nil, nil
  if ttls == 'packs' then
    waits, n = make_packs(last)
    fold = (v[6] or 0) + n
  else
    waits = make_entries(last)
    fold = v[6] and v[6] + n
  end
  redis.call('RPUSH', fold and KEYS[15] or KEYS[2], unpack(waits))
  show(waits)
  if fold then
    redis.call('HSET', KEYS[1], 'id', string.format('%.0f', last + n), 'fold', string.format('%.0f', fold))
  else
    redis.call('HSET', KEYS[1], 'id', string.format('%.0f', last + n))
  end
  if tonumber(v[4] or 0) > now then redis.call('PUBLISH', KEYS[1] .. ':wake', '1') end
  return string.format('%.0f', last + 1)
end

-- common.lua stands here
local s = load_state()
if s.known == false then
  s.id, s.epoch = 0, s.epoch > 0 and s.epoch or now
  -- As recorded: at the historic doors the first message starts a queue, whatever was said before.
  if ARGV[4] == '' and call('HEXISTS', Q, 'mode') == 0 then
    call('HSET', Q, 'st', 1)
    s.started, s.st, s.was_set.st = true, 1, 1
  end
  for name, value in string.gmatch(ARGV[4], '(%S+) (%S+)') do
    if call('HSETNX', Q, name, value) == 1 and s[name] then
      s[name], s.was_set[name] = tonumber(value), tonumber(value)
      if name == 'st' then s.started = value == '1' end
    end
  end
end
if s.id < floor then  -- the store lost time: ids must rise all the same
  s.id, s.epoch = floor + 1000000, math.max(now, s.epoch + 1)
end
local first, entries = s.id + 1, {}
if ttls == 'packs' then
  for _, element in ipairs((make_packs(s.id))) do entries_of(element, entries) end
  n = #entries
else
  entries = make_entries(s.id)
end
s.id = s.id + n
local pushed, refused = 0, {}
if s.started and s.live > now and call('EXISTS', L, Y, F) == 0 then
  pushed, refused = push(s, entries)
end
if pushed < n then append(entries, pushed + 1) end
put_back(refused)
if s.known == false then call('HSETNX', Q, 'st', 1) end
save_state(s)
show(entries)
if pushed < n and tonumber(v[4] or 0) > now then call('PUBLISH', Q .. ':wake', '1') end
return text(first)
