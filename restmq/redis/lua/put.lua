#!lua
-- Purpose: put messages in with all that can be said of them: delay, priority, bounds, idempotency.
-- Atomic: id, place and the answer a repeat gets are decided together, for each message by itself.
-- KEYS: those of common.lua, then those of idempotency keys, which hold 16 bytes fingerprint, I6 when the
--       queue got its first key (its field keyed: a queue that was deleted leaves its keys behind), and the id
-- ARGV: 2 the highest id this daemon ever saw here, 3 fields a new queue gets ("name value name value"), then of
--       each (1..1000): ttl ms (0: the queue's), ms until it is due (0: now; "@" and ms: then), priority (below 0: if the
--       queue has them), number of its key (0:
--       none), fingerprint, payload
-- Returns: {now ms, when the first is due, ms (0: none is delayed), then for each its id, "r" and its id for a
--           repeat, or an error: "queue_full", "key_reused", "priorities_off", "rate_limited ms"}
-- jobs.lua stands here
check_types()
for i = #KINDS + 1, #KEYS do
  local kind = call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'string' then error({err = 'WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind}) end
end
local now, floor = clock(), tonumber(ARGV[2])
local s = load_state()
if s.known == false then
  s.id, s.epoch = 0, s.epoch > 0 and s.epoch or now
  for name, value in string.gmatch(ARGV[3], '(%S+) (%S+)') do
    if call('HSETNX', Q, name, value) == 1 and s[name] then
      s[name], s.was_set[name] = tonumber(value), tonumber(value)
      if name == 'st' then s.started = value == '1' end
    end
  end
  call('HSETNX', Q, 'st', 1)
end
if s.id < floor then  -- the store lost time: ids must rise all the same
  s.id, s.epoch = floor + 1000000, math.max(now, s.epoch + 1)
end
local v = call('HMGET', Q, 'ttl_ms', 'max_length', 'max_bytes', 'overflow', 'put_rate', 'ptat', 'prio', 'dedup_ms', 'fold')
local ttl_of_queue, most, most_bytes, drops = tonumber(v[1] or 0), tonumber(v[2]), tonumber(v[3]), v[4] == '2'
local rate, clock_of_rate, dedup = tonumber(v[5] or 0), tonumber(v[6] or 0), tonumber(v[8] or 86400000)
local step = rate > 0 and 1000 / rate or 0
if rate > 0 then clock_of_rate = math.max(clock_of_rate, now - math.max(100, step)) end
local born
if #KEYS > #KINDS then
  call('HSETNX', Q, 'keyed', text(now))
  born = pack('>I6', tonumber(call('HGET', Q, 'keyed')))
end
-- What is delayed, with max_bytes also what is leased, stays, whatever is dropped.
local held, staying = 0, 0
if most then
  staying = call('ZCARD', D)
  held = call('LLEN', L) + (v[9] or 0) + call('ZCARD', Y) + staying
end
local bytes, staying_bytes = 0, 0
local function measure()
  bytes = staying_bytes
  for _, key in ipairs({L, F, Y}) do bytes = bytes + (call('MEMORY', 'USAGE', key) or 0) end
end
if most_bytes then
  staying_bytes = call('MEMORY', 'USAGE', J) or 0
  measure()
end
local function full() return (most and held >= most) or (most_bytes and bytes > most_bytes) end
local function too_soon()  -- "" if the rate lets one more in, else the error
  if rate == 0 or clock_of_rate + step <= now + 1e-6 then return '' end
  return 'rate_limited ' .. text(math.ceil(clock_of_rate + step - now))
end
local reply, listed, again, records, due, first, dropped = {text(now), 0}, {}, {}, {}, {}, nil, 0
-- What is gone at the head takes no place; with `overflow` the oldest that is ready gives up its own.
local looked, room_made = 0, false
local MEASURED = 16  -- after so many that went, how large the queue is is asked again
local function make_room()
  room_made = true
  -- What was put in before in this call counts as well, so it must be in its place.
  append(listed, 1); put_back(again); listed, again = {}, {}
  while full() and looked < 2 * MAX_MESSAGES do
    local run, place = next_run(1)
    if #run == 0 or not is_gone(run[1], now) then break end
    take_run(place, 1)
    held, bytes, looked = held - 1, bytes - #run[1], looked + 1
  end
  -- A bound that was lowered is reached in several calls; until then the queue is full.
  if (most and staying >= most) or (most_bytes and staying_bytes > most_bytes) then return end
  while drops and looked < 2 * MAX_MESSAGES do
    -- What goes takes up more than its bytes, and what is unfolded more than its pack did.
    if most_bytes and (looked % MEASURED == 0 or not full()) then measure() end
    if not full() then return end
    looked = looked + 1
    unfold(1)
    local oldest, place = call('LINDEX', L, 0), L
    for rank = 0, 9 do
      local m = call('ZRANGEBYLEX', Y, '[' .. string.char(rank), '(' .. string.char(rank + 1), 'LIMIT', 0, 1)[1]
      if m and (not oldest or entry_id(oldest) > unpack_bytes('>I7', m, 2)) then oldest, place = string.sub(m, 2), m end
    end
    if not oldest then return end
    if place == L then call('LPOP', L) else call('ZREM', Y, place) end
    if not is_gone(oldest, now) then dropped = dropped + 1 end
    held, bytes = held - 1, bytes - #oldest
  end
end
for i = 4, #ARGV, 6 do
  local ttl, delay, priority, key = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if not delay then delay = math.max(0, tonumber(string.sub(ARGV[i + 1], 2)) - now) end
  if priority < 0 then priority = v[7] == '1' and -priority or 0 end
  local payload, answer, kept = ARGV[i + 5], '', nil
  if key > 0 then kept = call('GET', KEYS[#KINDS + key]) end
  if kept and string.sub(kept, 17, 22) == born then
    answer = string.sub(kept, 1, 16) == ARGV[i + 4] and 'r' .. string.sub(kept, 23) or 'key_reused'
  elseif priority > 0 and v[7] ~= '1' then
    answer = 'priorities_off'
  else
    answer = too_soon()  -- first: who is refused makes no room
    if answer == '' and full() then
      make_room()
      if full() then answer = 'queue_full' end
    end
  end
  if answer == '' then
    s.id = s.id + 1
    if ttl == 0 then ttl = ttl_of_queue end
    local e = pack(HEAD, s.id, now, ttl > 0 and now + delay + ttl or 0) .. payload
    answer = text(s.id)
    held, bytes, clock_of_rate = held + 1, bytes + #e, clock_of_rate + step
    if delay > 0 then
      staying, staying_bytes = staying + 1, staying_bytes + #e
      records[#records + 1], records[#records + 2] = answer, 'd' .. pack('>I6I7', now + delay, 0) .. e
      due[#due + 1], due[#due + 2] = text(now + delay), answer
      if not first or now + delay < first then first = now + delay end
    elseif priority > 0 then
      again[#again + 1] = e
    else
      listed[#listed + 1] = e
    end
    if key > 0 then
      local lives = math.max(dedup, delay + ttl, delay > 0 and delay + dedup or 0)
      if lives > 0 then call('SET', KEYS[#KINDS + key], ARGV[i + 4] .. born .. answer, 'PX', text(lives)) end
    end
  end
  reply[#reply + 1] = answer
end
append(listed, 1)
put_back(again)
each_slice('HSET', J, records, 2)
each_slice('ZADD', D, due, 2)
if rate > 0 then call('HSET', Q, 'ptat', string.format('%.3f', clock_of_rate)) end
if dropped > 0 then call('HINCRBY', Q, 'dropped', dropped) end
drain(s, now)
save_state(s)
if room_made or #listed + #again > 0 then wake(now) end
reply[2] = text(first or 0)
return reply
